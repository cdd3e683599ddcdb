"""Every error of ours, drawn as one tree.

An error is named for what happened and says who has to act. Every package can raise one; every edge can translate it.
It must not import anything, hold a secret or a raw response body, or be raised for misuse of our own functions.

::

    ImageCacheError
    ├─ InvalidInput             the user's text is wrong            fix_input        exit 2
    │   ├─ InvalidReference · InvalidDigest · InvalidManifest (the ImageCache document) · InvalidSetting
    │   └─ UnsupportedMediaType · NoMatchingPlatform · ImageTooLarge
    ├─ NotFound                 no such cache, bundle or mount      fix_input        exit 3
    ├─ AlreadyExists            a cache of that name exists         fix_input        exit 4
    ├─ RegistryError
    │   ├─ RegistryUnavailable · RateLimited                        retry            exit 10, 11
    │   ├─ Unauthenticated · AccessDenied · ImageNotFound           fix_input        exit 12 to 14
    │   └─ ProtocolViolation · RegistryUntrusted                    fix_environment  exit 15, 16
    ├─ ContentError             the bytes are not what was promised
    │   ├─ DigestMismatch                                           retry            exit 20
    │   └─ UnsafeLayer · MalformedLayer · MalformedDocument · LimitExceeded          fix_input  exit 21 to 24
    ├─ BuildMismatch            a build made something else         fix_input        exit 30
    ├─ QuotaExceeded            no room for another cache           retry            exit 31
    ├─ WorkerKilled             a layer ended its process, twice    fix_environment  exit 32
    ├─ SandboxUnavailable       no layer may be read on this host   fix_environment  exit 33
    ├─ StoreError
    │   ├─ BlobNotFound         fix_environment   exit 40
    │   ├─ StoreCorrupt         fix_environment   exit 41
    │   ├─ NoSpace              fix_environment   exit 42
    │   ├─ StoreDenied          fix_environment   exit 43
    │   ├─ StoreBusy · StoreUnreachable                             retry            exit 44, 45
    │   └─ StoreRefused         fix_environment   exit 46
    ├─ SnapshotError            containerd's snapshot contract (see snapshotter.grpc_errors for gRPC codes)
    │   └─ SnapshotNotFound · SnapshotExists · WrongKind · HasChildren · InvalidSnapshotArgument      exit 50
    ├─ HostError
    │   ├─ MountFailed          fix_environment   exit 60
    │   ├─ KernelUnsupported    fix_environment   exit 61
    │   ├─ PrivilegeMissing     fix_environment   exit 62
    │   ├─ ContainerdUnavailable fix_environment  exit 63
    │   ├─ ContainerdMisconfigured fix_environment exit 64
    │   ├─ ServiceManagerMissing fix_environment exit 65
    │   ├─ HostServiceFailed    fix_environment   exit 66
    │   ├─ PullFailed           fix_environment   exit 67
    │   ├─ ImageWithheld        fix_environment   exit 68
    │   └─ ImageNotListed       fix_environment   exit 69
    ├─ KubernetesError
    │   ├─ KubernetesUnavailable retry            exit 70
    │   ├─ KubernetesDenied     fix_environment   exit 71
    │   ├─ ObjectNotFound       fix_environment   exit 72
    │   ├─ ObjectExists         retry             exit 73
    │   ├─ ObjectConflict       retry             exit 74
    │   ├─ ObjectRefused        fix_environment   exit 75
    │   ├─ WatchExpired         retry             exit 76
    │   ├─ LeadershipLost       retry             exit 77
    │   └─ PullSecretUnavailable fix_input        exit 78
    ├─ Interrupted              the user stopped it; resumable      retry            exit 130
    └─ InternalError            our bug                             report_bug       exit 99
"""

from __future__ import annotations

import enum
from typing import ClassVar


class NextStep(enum.Enum):
    """Who has to act after an error."""

    RETRY = "retry"
    """The same call may succeed later."""
    FIX_INPUT = "fix_input"
    """The user changes a manifest, a reference or a credential."""
    FIX_ENVIRONMENT = "fix_environment"
    """An administrator changes the host: kernel, disk, permissions, configuration."""
    REPORT_BUG = "report_bug"
    """A fault of imagecache."""


class ImageCacheError(Exception):
    """Root of all errors that a user may see.

    Args:
        message: what happened, to which image or file; one sentence, no secret.
        hint: what to do next; one sentence. Optional when the message says it.
        image: the reference as the user wrote it, when one image is concerned.
    """

    next_step: ClassVar[NextStep] = NextStep.REPORT_BUG
    exit_code: ClassVar[int] = 99

    def __init__(self, message: str, *, hint: str = "", image: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.image = image

    @property
    def reason(self) -> str:
        """CamelCase name of what happened; also the reason of a condition or event."""
        return type(self).__name__

    def __str__(self) -> str:
        prefix = f"{self.image}: " if self.image and self.image not in self.message else ""
        return f"{prefix}{self.message}"


def by_name(reason: str) -> type[ImageCacheError]:
    """The class whose ``reason`` a document or another process names; InternalError when no class has it."""
    found = globals().get(reason)
    return found if isinstance(found, type) and issubclass(found, ImageCacheError) else InternalError


class InvalidInput(ImageCacheError):
    """The user's text is wrong."""

    next_step = NextStep.FIX_INPUT
    exit_code = 2


class InvalidReference(InvalidInput):
    """An image reference that no Docker or containerd would accept."""


class InvalidDigest(InvalidInput):
    """Text that is not ``algorithm:hex`` of a supported algorithm."""


class InvalidManifest(InvalidInput):
    """The ImageCache document (the user's YAML) is malformed; the message names the field."""


class InvalidSetting(InvalidInput):
    """A flag, environment variable or configuration value is not usable."""


class UnsupportedMediaType(InvalidInput):
    """Schema 1, encrypted or non-tar content, or a foreign layer that the registry lacks; the message names it."""


class NoMatchingPlatform(InvalidInput):
    """The image exists, but not for the wanted platform; the message lists its platforms."""


class ImageTooLarge(InvalidInput):
    """The images do not fit into ``imageCacheSize``."""


class NotFound(ImageCacheError):
    """No cache, bundle or mount of that name exists."""

    next_step = NextStep.FIX_INPUT
    exit_code = 3


class AlreadyExists(ImageCacheError):
    """A cache of that name exists already."""

    next_step = NextStep.FIX_INPUT
    exit_code = 4


class RegistryError(ImageCacheError):
    """A registry refused, or did not answer."""


class RegistryUnavailable(RegistryError):
    """No answer, or a 5xx that outlived the retries."""

    next_step = NextStep.RETRY
    exit_code = 10


class RateLimited(RegistryError):
    """429 that outlived the retries. ``retry_after`` is seconds, when the registry said so."""

    next_step = NextStep.RETRY
    exit_code = 11

    def __init__(self, message: str, *, hint: str = "", image: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, hint=hint, image=image)
        self.retry_after = retry_after


class Unauthenticated(RegistryError):
    """401: no credential, or a wrong one."""

    next_step = NextStep.FIX_INPUT
    exit_code = 12


class AccessDenied(RegistryError):
    """403: the credential is known and not allowed."""

    next_step = NextStep.FIX_INPUT
    exit_code = 13


class ImageNotFound(RegistryError):
    """404 for a manifest."""

    next_step = NextStep.FIX_INPUT
    exit_code = 14


class ProtocolViolation(RegistryError):
    """The registry broke the distribution specification; the message names host and rule."""

    next_step = NextStep.FIX_ENVIRONMENT
    exit_code = 15


class RegistryUntrusted(RegistryError):
    """The certificate is not trusted, or the registry speaks plain HTTP, and the user allows neither."""

    next_step = NextStep.FIX_ENVIRONMENT
    exit_code = 16


class ContentError(ImageCacheError):
    """Bytes differ from what their name or descriptor promises. Never retried with the same bytes."""


class DigestMismatch(ContentError):
    """Bytes do not have the digest or size that names them."""

    next_step = NextStep.RETRY
    exit_code = 20


class UnsafeLayer(ContentError):
    """The layer would escape its root, or has a bad hard link or whiteout; containerd refuses it too."""

    next_step = NextStep.FIX_INPUT
    exit_code = 21


class MalformedLayer(ContentError):
    """The layer is not a tar, not compressed as its media type says, or cut short."""

    next_step = NextStep.FIX_INPUT
    exit_code = 22


class MalformedDocument(ContentError):
    """A manifest, index, config or stored document that is not what its media type says."""

    next_step = NextStep.FIX_INPUT
    exit_code = 23


class LimitExceeded(ContentError):
    """A bound of ``limits.py`` was passed; the message names the bound and its value."""

    next_step = NextStep.FIX_INPUT
    exit_code = 24


class BuildMismatch(ImageCacheError):
    """A build made something else than it was asked for, or what it made is lost again; the message has what."""

    next_step = NextStep.FIX_INPUT
    exit_code = 30


class QuotaExceeded(ImageCacheError):
    """No room for another cache: their number, or the bytes of the store, are at their limit; the message names it."""

    next_step = NextStep.RETRY
    exit_code = 31


class WorkerKilled(ImageCacheError):
    """A process that reads a layer was killed or crashed, more than once; the message has the layer."""

    next_step = NextStep.FIX_ENVIRONMENT
    exit_code = 32


class SandboxUnavailable(ImageCacheError):
    """A process that reads layers could not give up its rights, so it has read none."""

    next_step = NextStep.FIX_ENVIRONMENT
    exit_code = 33


class StoreError(ImageCacheError):
    """A file of the store, or one that the user named, cannot be read or written."""

    next_step = NextStep.FIX_ENVIRONMENT
    exit_code = 40


class BlobNotFound(StoreError):
    """The store lacks a blob or layer image that it should have."""


class StoreCorrupt(StoreError):
    """A stored file does not have the content that its name says. It is moved to quarantine, not deleted."""

    exit_code = 41


class NoSpace(StoreError):
    """ENOSPC or EDQUOT, or more bytes than the budget allows."""

    exit_code = 42


class StoreDenied(StoreError):
    """EACCES, EPERM or EROFS on a file of the store."""

    exit_code = 43


class StoreBusy(StoreError):
    """Another process works on the object or file that the message names, or too many callers wait."""

    next_step = NextStep.RETRY
    exit_code = 44


class StoreUnreachable(StoreError):
    """The store that serves this node does not answer, or is overloaded."""

    next_step = NextStep.RETRY
    exit_code = 45


class StoreRefused(StoreError):
    """The store that serves this node refuses our token, or has a certificate that we do not trust."""

    exit_code = 46


class SnapshotError(ImageCacheError):
    """The call breaks containerd's snapshot contract; not a failure of ours."""

    next_step = NextStep.FIX_INPUT
    exit_code = 50


class SnapshotNotFound(SnapshotError):
    pass


class SnapshotExists(SnapshotError):
    """The key or the name is in use."""


class WrongKind(SnapshotError):
    """The operation needs an active, or a committed, snapshot."""


class HasChildren(SnapshotError):
    pass


class InvalidSnapshotArgument(SnapshotError):
    """A filter, a field or a parent that this call does not accept."""


class HostError(ImageCacheError):
    """This machine lacks something that is needed."""

    next_step = NextStep.FIX_ENVIRONMENT
    exit_code = 60


class MountFailed(HostError):
    """mount(2) or umount2(2) failed; the message has source, target and errno."""


class KernelUnsupported(HostError):
    """The kernel has no EROFS or overlayfs that supports our layer images."""

    exit_code = 61


class PrivilegeMissing(HostError):
    """The operation needs root, or a capability that this process lacks."""

    exit_code = 62


class ContainerdUnavailable(HostError):
    """containerd does not run, does not answer, or we may not open its socket."""

    exit_code = 63


class ContainerdMisconfigured(HostError):
    """containerd runs, but is not configured for the wanted mode."""

    exit_code = 64


class ServiceManagerMissing(HostError):
    """No systemd runs this host. What needs no systemd is done; the hint says what is left to do."""

    exit_code = 65


class HostServiceFailed(HostError):
    """A service did not start or stop; the message has the output of systemctl."""

    exit_code = 66


class PullFailed(HostError):
    """The runtime could not pull an image; the message is the runtime's own."""

    exit_code = 67


class ImageWithheld(HostError):
    """A private image is not pulled in advance: once it is on the node, every pod may use it."""

    exit_code = 68


class ImageNotListed(HostError):
    """The runtime does not have an image after it was attached, or has another one under its name."""

    exit_code = 69


class KubernetesError(ImageCacheError):
    """The Kubernetes API refused, or did not answer."""

    next_step = NextStep.FIX_ENVIRONMENT
    exit_code = 70


class KubernetesUnavailable(KubernetesError):
    """No answer from the API server, a 5xx, or a 429."""

    next_step = NextStep.RETRY


class KubernetesDenied(KubernetesError):
    """401 or 403: the identity is unknown, or its roles do not allow it; the message names verb and resource."""

    exit_code = 71


class ObjectNotFound(KubernetesError):
    """404: no such object, or its kind is not installed."""

    exit_code = 72


class ObjectExists(KubernetesError):
    """409 AlreadyExists: an object of that name exists."""

    next_step = NextStep.RETRY
    exit_code = 73


class ObjectConflict(KubernetesError):
    """409 Conflict: the object has changed since it was read."""

    next_step = NextStep.RETRY
    exit_code = 74


class ObjectRefused(KubernetesError):
    """400, 422 and other 4xx: the API server does not accept what we sent."""

    exit_code = 75


class WatchExpired(KubernetesError):
    """410 Gone: the resourceVersion is too old; list again."""

    next_step = NextStep.RETRY
    exit_code = 76


class LeadershipLost(KubernetesError):
    """Another controller leads, or the lease could not be renewed in time. This one must change nothing from now on."""

    next_step = NextStep.RETRY
    exit_code = 77


class PullSecretUnavailable(KubernetesError):
    """An imagePullSecret is missing, holds no credentials, or may not be read."""

    next_step = NextStep.FIX_INPUT
    exit_code = 78


class Interrupted(ImageCacheError):
    """Stopped by the user. What was fetched is kept; the same command resumes there."""

    next_step = NextStep.RETRY
    exit_code = 130


class InternalError(ImageCacheError):
    """A state that should be impossible: a bug of ours."""
