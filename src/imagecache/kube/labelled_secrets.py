"""Secrets that ImageCaches may use are those that their owner has marked, whoever asks.

The other way beside the chart's admission policy (``authors.pullSecrets``), and the only one before Kubernetes 1.30.
"""

from __future__ import annotations

from imagecache.errors import PullSecretUnavailable
from imagecache.kube import objects
from imagecache.kube.api import Object
from imagecache.kube.client import KubeClient
from imagecache.kube.resources import SECRETS, Resource

LABEL = "imagecache.dev/pull-secret"


class LabelledSecretsClient(KubeClient):
    """Gives no Secret without the label."""

    async def get(self, resource: Resource, name: str, *, namespace: str = "") -> Object:
        """Raises PullSecretUnavailable for a Secret that is there and has no label."""
        found = await super().get(resource, name, namespace=namespace)
        if resource == SECRETS and objects.texts(found, "metadata", "labels").get(LABEL) != "true":
            raise PullSecretUnavailable(
                f"imagePullSecret {namespace}:{name} lacks the label {LABEL}",
                hint=f"who owns it, and lets every ImageCache use it: kubectl label secret {name} -n {namespace} "
                f"{LABEL}=true",
            )
        return found
