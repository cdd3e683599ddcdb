"""Claims on objects that are files: the agent of a host leaves alone what a command works on. See ``object_files``."""

from __future__ import annotations

from contextlib import ExitStack

from imagecache.errors import StoreBusy
from imagecache.kube import objects
from imagecache.kube.object_files import ObjectFiles


class FileClaims:
    """``controller.dependencies.Claims``."""

    def __init__(self, files: ObjectFiles) -> None:
        self._files = files
        self._held: dict[str, ExitStack] = {}

    def take(self, name: str, resource_version: str) -> bool:
        if name in self._held:
            return True
        with ExitStack() as stack:
            try:
                stack.enter_context(self._files.claimed(name))
            except StoreBusy:
                return False
            # only now nobody changes it; what was decided about an earlier version must not be carried out
            item = self._files.read(name)
            if item is None or objects.resource_version(item) != resource_version:
                return False
            self._held[name] = stack.pop_all()
        return True

    def release(self, name: str) -> None:
        held = self._held.pop(name, None)
        if held is not None:
            held.close()
