"""Clients that ask the Routes of several hosts for a temperature at a steady rate, each over kept connections.

Usage   python steady_load.py ADDRESS:PORT PER_SECOND HOST...   (PER_SECOND for each host)
Exit    on SIGTERM

An event loop and bare sockets: a library's client would take a core for these few hundred requests a second.
"""

from __future__ import annotations

import asyncio
import random
import sys
from contextlib import suppress

CONNECTIONS = 8
PATH = "/predict-temperature?x=0.5&y=0.5&t=0.1"
ANSWER_SECONDS = 10.0


async def ask(address: str, port: int, host: str, pause: float) -> None:
    """Ask again and again over one connection; a lost one is opened anew."""
    request = f"GET {PATH} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    while True:
        with suppress(OSError, TimeoutError, ValueError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection(address, port)
            try:
                while True:
                    await asyncio.sleep(random.uniform(0, 2 * pause))
                    writer.write(request)
                    await asyncio.wait_for(_answer(reader), ANSWER_SECONDS)
            finally:
                writer.close()
        await asyncio.sleep(0.2)


async def _answer(reader: asyncio.StreamReader) -> None:
    """Read one answer, which tells its length."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    _, found, rest = head.partition(b"content-length:")
    if not found:
        raise ValueError("an answer without a length")
    await reader.readexactly(int(rest.partition(b"\r\n")[0]))


async def main(where: str, per_second: float, hosts: list[str]) -> None:
    """Ask until the process is ended."""
    address, _, port = where.partition(":")
    pause = CONNECTIONS / per_second
    await asyncio.gather(*(ask(address, int(port), host, pause) for host in hosts for _ in range(CONNECTIONS)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]), sys.argv[3:]))
