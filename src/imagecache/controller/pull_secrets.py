"""imagePullSecrets by name: one get each, so a role that allows no more is sufficient.

Values stay in memory and are given to the build alone. It must not list or watch Secrets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from imagecache.api.pull_secrets import PullSecret, pull_secret
from imagecache.errors import InvalidInput, KubernetesDenied, ObjectNotFound, PullSecretUnavailable
from imagecache.kube import objects
from imagecache.kube.api import Kube
from imagecache.kube.resources import SECRETS


async def read(kube: Kube, names: Sequence[str]) -> tuple[PullSecret, ...]:
    """The named secrets (``namespace:name``), in that order. Raises PullSecretUnavailable, KubernetesUnavailable."""
    return tuple([await _read(kube, name) for name in names])


async def _read(kube: Kube, name: str) -> PullSecret:
    namespace, _, short = name.partition(":")
    try:
        secret = await kube.get(SECRETS, short, namespace=namespace)
        file = objects.text(secret, "metadata", "selfLink")  # of a directory of Secrets; API servers leave it out
        return pull_secret(name, secret, f"{file}: " if file else "")
    except ObjectNotFound as error:
        if error.hint:  # a directory of Secrets names itself and says what to do; an API server does not
            raise PullSecretUnavailable(f"imagePullSecret {error.message}", hint=error.hint) from error
        raise PullSecretUnavailable(
            f"imagePullSecret {name} does not exist",
            hint=f"create it: kubectl create secret docker-registry {short} -n {namespace} --docker-server=...",
        ) from error
    except KubernetesDenied as error:
        raise PullSecretUnavailable(
            f"imagePullSecret {name} may not be read by the controller",
            hint=f"allow its service account to get the secret {short} in the namespace {namespace}",
        ) from error
    except InvalidInput as error:
        raise PullSecretUnavailable(str(error), hint=error.hint) from error


def fingerprint(secrets: Sequence[PullSecret]) -> str:
    """Differs when a secret differs, and shows nothing of them. Never stored: a short password could be guessed."""
    state = hashlib.sha256()
    for secret in secrets:
        state.update(hashlib.sha256(secret.name.encode()).digest() + hashlib.sha256(secret.config).digest())
    return state.hexdigest()
