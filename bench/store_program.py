"""The served store of a directory, as the controller serves it, in a process of its own: prints what a client needs.

Arguments: the store and a directory for certificate and token. It ends when its stdin does.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from imagecache.builder.inflate_threads import cores
from imagecache.served.server_settings import ServerSettings
from imagecache.telemetry import log
from testkit.served import Served


async def main() -> None:
    store, directory = map(Path, sys.argv[1:])
    log.configure(level="warning")
    settings = replace(ServerSettings(), packers=max(1, cores() // 2))  # as apps/controller.py
    async with Served(store, directory, server=settings) as served:
        words = {"port": served.port, "ca": str(served.certificate), "token": str(served.token_file)}
        print(json.dumps(words), flush=True)  # noqa: T201 - for the parent
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
