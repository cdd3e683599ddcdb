"""imagePullSecrets by name: one get each, so a role that allows no more is sufficient.

Values stay in memory and are given to the build alone. It must not list or watch Secrets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from imagecache.api.pull_secrets import PullSecret, pull_secret
from imagecache.errors import InvalidInput, KubernetesDenied, ObjectNotFound, PullSecretUnavailable
from imagecache.kube import objects
from imagecache.kube.api import Kube, Object
from imagecache.kube.resources import SECRETS


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a build proves itself with."""

    secrets: tuple[PullSecret, ...] = ()
    version: str = ""
    """``version`` of all of them."""


async def read(kube: Kube, names: Sequence[str]) -> Credentials:
    """The named secrets (``namespace:name``), in that order. Raises PullSecretUnavailable, KubernetesUnavailable."""
    found = {name: await _read(kube, name) for name in names}
    versions = {name: one for name, (_secret, one) in found.items()}
    return Credentials(tuple(secret for secret, _version in found.values()), version(versions))


async def read_version(kube: Kube, name: str) -> str:
    """The version of one secret, if a build could use it. Raises as ``read``."""
    return (await _read(kube, name))[1]


def version(versions: Mapping[str, str]) -> str:
    """Of several secrets, by name: another one when any of them is replaced or changed. Empty for none.

    By what the API server counts, not by their content: a short password could be guessed from what is stored.
    """
    if not versions:
        return ""
    text = "\n".join(f"{name}={each}" for name, each in sorted(versions.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


async def _read(kube: Kube, name: str) -> tuple[PullSecret, str]:
    namespace, _, short = name.partition(":")
    try:
        secret = await kube.get(SECRETS, short, namespace=namespace)
        file = objects.text(secret, "metadata", "selfLink")  # of a directory of Secrets; API servers leave it out
        return pull_secret(name, secret, f"{file}: " if file else ""), _version(secret)
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
            hint=f"allow its service account to get the secret {short} in the namespace {namespace} (the chart's "
            "pullSecretNamespaces)",
        ) from error
    except InvalidInput as error:
        raise PullSecretUnavailable(str(error), hint=error.hint) from error


def _version(secret: Object) -> str:
    """With the uid: one that was created anew may come to the same number in a restored cluster."""
    return f"{objects.uid(secret)}/{objects.resource_version(secret)}"
