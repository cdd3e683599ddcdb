"""What the commands that work on ImageCaches need from the rest of the program, as a port."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from imagecache.settings.table import Settings
    from imagecache.standalone.controller import Controller


class Application(Protocol):
    """Constructed for one set of settings; nothing is opened before it is used."""

    def controller(self) -> Controller: ...


class ApplicationFactory(Protocol):
    def __call__(self, settings: Settings) -> Application: ...
