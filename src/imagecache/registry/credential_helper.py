"""Docker credential helpers: programs that keep secrets.

Source: docker/docker-credential-helpers, the ``get`` command: the server's address on stdin, JSON on stdout. It is
bounded in time. It must not repeat the output of a helper that fails: that may be a secret.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Sequence

import msgspec

from imagecache import foreign_json
from imagecache.errors import InvalidSetting, MalformedDocument
from imagecache.registry.credentials import HUB_SERVER, Credential, credential_host

HELPER_TIMEOUT = 30.0
"""Seconds. Cloud helpers (ECR, GCR) make requests of their own."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_NOT_FOUND = b"credentials not found in native keychain"
"""The protocol's message for a credential that does not exist. Every other failure is an error."""
_LONGEST = 1 << 20
"""Bytes of an answer: more than any token."""
_TOKEN_USER = "<token>"  # noqa: S105 - the protocol's mark for an identity token


class _Answer(msgspec.Struct):
    username: str = msgspec.field(default="", name="Username")
    secret: str = msgspec.field(default="", name="Secret")


class CredentialHelper:
    """``registry.credentials.Credentials`` of ``docker-credential-NAME``, found on PATH.

    Raises InvalidSetting when the name cannot be one.
    """

    def __init__(self, name: str, timeout: float = HELPER_TIMEOUT) -> None:
        if not _NAME.fullmatch(name):
            raise InvalidSetting(f"not the name of a credential helper: {name[:80]!r}")
        self.program = f"docker-credential-{name}"
        self._timeout = timeout

    async def credentials_for(self, host: str, repository: str) -> Sequence[Credential]:  # noqa: ARG002 - hosts only
        """The helper's credential for the registry, or none. Raises InvalidSetting when it fails."""
        found = await self._get(HUB_SERVER if credential_host(host) == "docker.io" else host)
        return (found,) if found else ()

    async def _get(self, server: str) -> Credential | None:
        code, output = await self._run(server)
        if code != 0:
            if _NOT_FOUND in output:
                return None
            raise self._failed(f"ended with exit code {code}")
        if len(output) > _LONGEST:
            raise self._failed("answers more than a credential")
        try:
            answer = foreign_json.decode(output, _Answer, conflicts=False)
        except MalformedDocument:
            raise self._failed("did not answer in JSON") from None  # the cause may quote the secret
        if answer.username == _TOKEN_USER:
            return Credential(identity_token=answer.secret, source=self.program)
        return Credential(username=answer.username, password=answer.secret, source=self.program)

    async def _run(self, server: str) -> tuple[int, bytes]:
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                self.program, "get", stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL
            )
        except OSError as error:
            raise self._failed(f"cannot be started: {error.strerror}") from error
        try:
            async with asyncio.timeout(self._timeout):
                output, _ = await process.communicate(server.encode() + b"\n")
        except TimeoutError as error:
            raise self._failed(f"did not answer within {self._timeout:g} s") from error
        finally:
            # Also when the build is cancelled: a helper that waits for input would stay.
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            code = await process.wait()
        return code, output

    def _failed(self, what: str) -> InvalidSetting:
        return InvalidSetting(
            f"the credential helper {self.program} {what}",
            hint="run it by hand, or remove it from credHelpers and credsStore of Docker's config.json",
        )
