"""What follows from a build that came to nothing: tried again without end, a few times, or only when a person acts.

Time alone ends what is transient, so a cache never fails for it. A fault (of ours, or a result that is not what was
asked for) may be gone the next time, but nothing says so: a few builds, then it fails, or it would be built for ever.
Pure; it must not know phases.
"""

from __future__ import annotations

from imagecache.api import building
from imagecache.api.effective_spec import EffectiveSpec
from imagecache.backoff import Backoff
from imagecache.errors import (
    AlreadyExists,
    BuildMismatch,
    DigestMismatch,
    ImageCacheError,
    InternalError,
    InvalidInput,
    InvalidSetting,
    NextStep,
    RateLimited,
    RegistryError,
    SandboxUnavailable,
    StoreError,
    by_name,
)
from imagecache.store.bundle_document import Bundle

BACKOFF = Backoff(5.0, 600.0)
"""Between two builds of the same. kubelet pulls again after 10 s to 5 min; a build asks for much more."""
LONGEST = 3600.0
"""Seconds that a registry may ask to wait; it is asked again after that."""
TRIES = 3
"""Builds for one wish whose result is a fault."""


def is_transient(error: ImageCacheError) -> bool:
    """Whether time, or somebody who does not touch the object, ends it.

    A registry or the store that is away or full; a host on which no layer may be read. Not bytes that are not what
    their digest says: the build has fetched them twice by then.
    """
    retried = error.next_step is NextStep.RETRY and not isinstance(error, DigestMismatch)
    return retried or isinstance(error, StoreError | SandboxUnavailable)


def is_fault(error: ImageCacheError) -> bool:
    """Whether nobody can be told what to change. AlreadyExists: a bundle with the id came from an earlier build."""
    return isinstance(error, InternalError | BuildMismatch | AlreadyExists)


def is_of_access(reason: str) -> bool:
    """Whether other credentials, or another configuration of registries, can end a failure of this reason.

    InvalidInput, InvalidSetting: what a Secret, Docker's config.json or a hosts.toml holds cannot be read.
    """
    return issubclass(by_name(reason), RegistryError) or reason in {InvalidInput.__name__, InvalidSetting.__name__}


def pause(error: ImageCacheError, failures: int) -> float:
    """Seconds until it is tried again after so many failures in a row."""
    asked = error.retry_after if isinstance(error, RateLimited) else None
    return max(BACKOFF.pause(failures), min(asked or 0.0, LONGEST))


def mismatch(bundle_id: str, document: Bundle | None, spec: EffectiveSpec) -> BuildMismatch:
    """A build has ended well, and its bundle is not there, or is not what the spec asks for."""
    if document is None:
        return BuildMismatch(f"the build ended, and the store has no bundle {bundle_id}", hint=_STORE)
    return BuildMismatch(
        f"the build made something else than it was asked for: {building.difference(document, spec)}",
        hint="write the spec as the bundle has it, and report this: it is a fault of imagecache",
    )


def lost(bundle_id: str) -> BuildMismatch:
    """The store has not kept what was built."""
    return BuildMismatch(f"the store has lost bundle {bundle_id} again", hint=_STORE)


_STORE = "see what else deletes or restores files of the controller's store, then change the ImageCache"
