"""Every annotation that Alibaba documents on an ImageCache, and what each means on any cluster.

Portable ones are applied in ``effective_spec``; ``imc-enable-reuse`` and ``imc-enable-flash`` are accepted and always
true here (layers are shared by content, and a layer can be used as soon as it is written). Cloud-only ones are accepted
and ignored with a note, so that manifests need no change. Source: eci-api §2. It must not do I/O.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from imagecache.errors import InvalidManifest
from imagecache.written import listed, refusal, trimmed

PREFIX = "k8s.aliyun.com/"
REUSE = PREFIX + "imc-enable-reuse"
REUSE_LEGACY = PREFIX + "auto-match-imagecache"
FLASH = PREFIX + "imc-enable-flash"
RETENTION_DAYS = PREFIX + "imc-retention-days"
SIZE = PREFIX + "imc-size"
CPU_ARCH = PREFIX + "imc-cpu-arch"
OS_TYPE = PREFIX + "imc-os-type"
PLAIN_HTTP = PREFIX + "plain-http-registry"
INSECURE = PREFIX + "insecure-registry"

PORTABLE = frozenset({REUSE, REUSE_LEGACY, FLASH, RETENTION_DAYS, SIZE, CPU_ARCH, OS_TYPE, PLAIN_HTTP, INSECURE})
CLOUD_ONLY = frozenset(
    PREFIX + name
    for name in (
        "vswitch-ids",
        "security-group-id",
        "resource-group-id",
        "acr-instance-ids",
        "acr-service-arns",
        "acr-user-arns",
        "eip-instance-id",
        "auto-create-eip",
        "eip-bandwidth",
        "eip-internet-charge-type",
        "eip-isp",
        "eip-common-bandwidth-package-id",
    )
)
_HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:]+\])(?::[0-9]{1,5})?")


def field(key: str) -> str:
    """Path of an annotation in the document, for messages."""
    return f"metadata.annotations[{key}]"


def notes(annotations: Mapping[str, str]) -> tuple[str, ...]:
    """What a user should know about keys that have no effect here; keys with other prefixes are not ours."""
    found = []
    for key in annotations:
        if key in CLOUD_ONLY:
            found.append(f"{field(key)}: only used on Alibaba Cloud, ignored")
        elif key.startswith(PREFIX) and key not in PORTABLE:
            found.append(f"{field(key)}: unknown, ignored")
    return tuple(found)


def value(annotations: Mapping[str, str], key: str) -> str:
    """The trimmed text of a key; empty when it is absent."""
    return trimmed(annotations.get(key, ""))


def whole_number(annotations: Mapping[str, str], key: str) -> int | None:
    """The value as an integer; None when the key is absent. Raises InvalidManifest."""
    if key not in annotations:
        return None
    text = value(annotations, key)
    if not re.fullmatch(r"[0-9]{1,9}", text):
        message = refusal(f"{field(key)}: {text[:80]!r} is not a whole number", text)
        raise InvalidManifest(message, hint='write it as "7"')
    return int(text)


def choice(annotations: Mapping[str, str], key: str, allowed: tuple[str, ...]) -> str | None:
    """The value, lowercase, when it is one of ``allowed``; None when absent or empty. Raises InvalidManifest."""
    text = value(annotations, key)
    return _one_of(text, key, allowed) if text else None


def choices(annotations: Mapping[str, str], key: str, allowed: tuple[str, ...]) -> tuple[str, ...]:
    """The values of a list with commas, lowercase, in the order of ``allowed``; none when absent or empty.

    Raises InvalidManifest.
    """
    found = {_one_of(text, key, allowed) for text in listed(value(annotations, key))}
    return tuple(each for each in allowed if each in found)


def registries(annotations: Mapping[str, str], key: str) -> frozenset[str]:
    """The comma-separated ``host[:port]`` list of a key, lowercase. Raises InvalidManifest."""
    hosts = {host.lower() for host in listed(value(annotations, key))}
    for host in sorted(hosts):
        if not _HOST.fullmatch(host):
            raise InvalidManifest(
                refusal(f"{field(key)}: {host[:80]!r} is not host[:port]", host),
                hint="write it exactly as in the image reference, without a scheme",
            )
    return frozenset(hosts)


def _one_of(text: str, key: str, allowed: tuple[str, ...]) -> str:
    if text.lower() not in allowed:
        message = refusal(f"{field(key)}: {text.lower()[:80]!r} is not supported", text)
        raise InvalidManifest(message, hint=f"one of: {', '.join(allowed)}")
    return text.lower()
