"""The user behind a token: Kubernetes' TokenReview with an audience of our own.

A token made for another audience, such as the API server's, is not valid here, and ours is not valid there: a stolen
one opens nothing else. It must not keep or log a token.
"""

from __future__ import annotations

from dataclasses import dataclass

from imagecache.kube.api import Kube
from imagecache.kube.objects import at, text
from imagecache.kube.resources import TOKEN_REVIEWS
from imagecache.served.authenticator import Caller

AUDIENCE = "imagecache"


_NODE = "authentication.kubernetes.io/node-name"
"""Of the Pod that a token is bound to, from Kubernetes 1.30 on (KEP 4193)."""


@dataclass(frozen=True, slots=True)
class KubeTokenReviewer:
    """``served.authenticator.TokenReviewer``."""

    kube: Kube
    audience: str = AUDIENCE

    async def review(self, token: str) -> Caller | None:
        """None when the token is not valid for our audience. Raises KubernetesError."""
        answer = await self.kube.create(TOKEN_REVIEWS, {"spec": {"token": token, "audiences": [self.audience]}})
        audiences = at(answer, "status", "audiences")
        if at(answer, "status", "authenticated") is not True or not isinstance(audiences, list):
            return None
        # one that knows no audiences returns none, and the token may be the API server's own (TokenReviewStatus)
        if self.audience not in audiences:
            return None
        nodes = at(answer, "status", "user", "extra", _NODE)
        node = nodes[0] if isinstance(nodes, list) and len(nodes) == 1 else ""
        return Caller(text(answer, "status", "user", "username"), node if isinstance(node, str) else "")
