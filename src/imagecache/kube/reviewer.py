"""The user behind a token: Kubernetes' TokenReview with an audience of our own.

A token made for another audience, such as the API server's, is not valid here, and ours is not valid there: a stolen
one opens nothing else. It must not keep or log a token.
"""

from __future__ import annotations

from dataclasses import dataclass

from imagecache.kube.api import Kube
from imagecache.kube.objects import at, text
from imagecache.kube.resources import TOKEN_REVIEWS

AUDIENCE = "imagecache"


@dataclass(frozen=True, slots=True)
class KubeTokenReviewer:
    """``served.authenticator.TokenReviewer``."""

    kube: Kube
    audience: str = AUDIENCE

    async def review(self, token: str) -> str | None:
        """The username behind a token; None when it is not valid for our audience. Raises KubernetesError."""
        answer = await self.kube.create(TOKEN_REVIEWS, {"spec": {"token": token, "audiences": [self.audience]}})
        audiences = at(answer, "status", "audiences")
        if at(answer, "status", "authenticated") is not True or not isinstance(audiences, list):
            return None
        # one that knows no audiences returns none, and the token may be the API server's own (TokenReviewStatus)
        return text(answer, "status", "user", "username") if self.audience in audiences else None
