"""What the controller and a build process send each other: one line of JSON each, over the process's own pipes.

The order, with its secrets, goes through stdin: not the command line or the environment, which others can read. It must
not do I/O.
"""

from __future__ import annotations

import msgspec

from imagecache.api.building import BuildRequest
from imagecache.api.pull_secrets import PullSecret
from imagecache.builder.build_events import BuildEvent
from imagecache.errors import ImageCacheError, RateLimited, by_name
from imagecache.oci.descriptor import decode_hook, encode_hook
from imagecache.written import printable


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """The first and only line to the process; when its stdin ends, it stops."""

    settings: dict[str, str]
    """As flags would give them."""
    request: BuildRequest
    credentials: tuple[PullSecret, ...] = ()
    docker_config: str = ""
    """Path of a docker ``config.json`` whose credentials come after these; empty: none."""


class Ended(msgspec.Struct, tag=True, frozen=True):
    """The bundle is committed."""


class Failed(msgspec.Struct, tag=True, frozen=True):
    error: str
    """Name of a class of ``imagecache.errors``."""
    message: str
    hint: str
    image: str
    retry_after: float | None = None
    """Seconds that the registry asks to wait, when it has said so."""

    @classmethod
    def of(cls, error: ImageCacheError) -> Failed:
        asked = error.retry_after if isinstance(error, RateLimited) else None
        message, hint, image = map(printable, (error.message, error.hint, error.image))
        return cls(type(error).__name__, message, hint, image, asked)

    def exception(self) -> ImageCacheError:
        """The error that the process met, of its own class again."""
        found = by_name(self.error)(self.message, hint=self.hint, image=self.image)
        if isinstance(found, RateLimited):
            found.retry_after = self.retry_after
        return found


Line = BuildEvent | Ended | Failed
_lines = msgspec.json.Decoder(Line, dec_hook=decode_hook)
_orders = msgspec.json.Decoder(Order)


def encode(message: Order | Line) -> bytes:
    return msgspec.json.encode(message, enc_hook=encode_hook) + b"\n"


def decode_order(line: bytes) -> Order:
    return _orders.decode(line)


def decode_line(line: bytes) -> Line:
    """Raises msgspec.DecodeError, InvalidDigest."""
    found: Line = _lines.decode(line)
    return found
