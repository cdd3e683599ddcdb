"""What the controller and a build process say to each other: one line of JSON each, over the process's own pipes.

The order, with its secrets, goes through stdin: not the command line or the environment, which others can read. It must
not do I/O.
"""

from __future__ import annotations

import msgspec

from imagecache.api.building import BuildRequest
from imagecache.api.pull_secrets import PullSecret
from imagecache.api.types import Event
from imagecache.controller.dependencies import Job
from imagecache.errors import ImageCacheError, by_name


class Credentials(msgspec.Struct, frozen=True):
    name: str
    config: bytes

    def __repr__(self) -> str:
        return f"Credentials({self.name})"


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """The first and only line to the process; the end of its stdin tells it to stop."""

    settings: dict[str, str]
    """As flags would give them."""
    request: BuildRequest
    credentials: tuple[Credentials, ...] = ()

    def job(self) -> Job:
        secrets = tuple(PullSecret(each.name, each.config) for each in self.credentials)
        return Job(self.request, secrets)


class Advanced(msgspec.Struct, tag=True, frozen=True):
    done: int
    total: int


class Told(msgspec.Struct, tag=True, frozen=True):
    event: Event


class Ended(msgspec.Struct, tag=True, frozen=True):
    """The bundle is committed."""


class Failed(msgspec.Struct, tag=True, frozen=True):
    error: str
    """Name of a class of ``imagecache.errors``."""
    message: str
    hint: str
    image: str

    @classmethod
    def of(cls, error: ImageCacheError) -> Failed:
        return cls(type(error).__name__, error.message, error.hint, error.image)

    def exception(self) -> ImageCacheError:
        """The error that the process met, as itself again."""
        return by_name(self.error)(self.message, hint=self.hint, image=self.image)


Line = Advanced | Told | Ended | Failed
_lines = msgspec.json.Decoder(Line)
_orders = msgspec.json.Decoder(Order)


def order(settings: dict[str, str], job: Job) -> Order:
    credentials = tuple(Credentials(secret.name, secret.config) for secret in job.secrets)
    return Order(settings=settings, request=job.request, credentials=credentials)


def encode(message: Order | Line) -> bytes:
    return msgspec.json.encode(message) + b"\n"


def decode_order(line: bytes) -> Order:
    return _orders.decode(line)


def decode_line(line: bytes) -> Line:
    """Raises msgspec.DecodeError."""
    found: Line = _lines.decode(line)
    return found
