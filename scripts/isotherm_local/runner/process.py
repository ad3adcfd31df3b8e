"""Run one process group to its end, with its output in a log, a limit and a way to stop it from outside."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import ctypes
import os
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from isotherm.tekton import redact

GRACE_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1
Write = Callable[[bytes], int | None]
Seen = Callable[[str], None]
_BREAK = re.compile(r"[\r\n]+")


@dataclass
class Stop:
    """How an attempt is ended from outside; `hurry` cuts the grace short in which its process may end by itself."""

    event: asyncio.Event = field(default_factory=asyncio.Event)
    hurry: asyncio.Event = field(default_factory=asyncio.Event)
    reason: str = ""
    message: str = ""

    def now(self, reason: str, message: str) -> None:
        """Ask for the end; the first reason counts."""
        if not self.event.is_set():
            self.reason, self.message = reason, message
            self.event.set()


@dataclass(frozen=True)
class Ready:
    """A step with everything substituted."""

    argv: list[str]
    env: dict[str, str]
    folder: Path
    goes_on: bool = False  # onError: continue


def _pass_on_death() -> Callable[[], None] | None:
    """Let a step die with a runner that is killed (on Linux; elsewhere its processes stay)."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl

    def arrange() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    return arrange


async def run(ready: Ready, limit: float | None, stop: Stop, write: Write, seen: Seen) -> tuple[int, bool]:
    """Run a process group to its end; return its exit code (-n for signal n) and whether the limit ended it."""
    # A pipe of our own: asyncio's waits for everyone who holds it, so for what a step leaves running as well.
    reading, writing = os.pipe()
    output = os.fdopen(reading, "rb", buffering=0)
    try:
        process = await asyncio.create_subprocess_exec(
            *ready.argv,
            env=ready.env,
            cwd=ready.folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=writing,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_pass_on_death(),
        )
    except OSError:
        output.close()
        raise
    finally:
        os.close(writing)
    stream = asyncio.StreamReader()
    pipe, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), output)
    reader = asyncio.create_task(_pump(stream, write, seen))
    ended = asyncio.create_task(process.wait())
    stopped, hurried = asyncio.create_task(stop.event.wait()), asyncio.create_task(stop.hurry.wait())
    try:
        await asyncio.wait({ended, stopped}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        late = not ended.done() and not stopped.done()
        if not ended.done():
            _signal(process.pid, signal.SIGTERM)
            await asyncio.wait({ended, hurried}, timeout=GRACE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        hurried.cancel()
        # Whatever the step left running ends with it, as in a container.
        _signal(process.pid, signal.SIGKILL)
    code = await ended
    await asyncio.wait({reader}, timeout=2.0)
    reader.cancel()
    pipe.close()
    return code, late


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


async def _pump(stream: asyncio.StreamReader, write: Write, seen: Seen) -> None:
    """Copy output to the log and hand on each line; a carriage return ends a line too, so that progress bars show."""
    decoder, rest = codecs.getincrementaldecoder("utf-8")("replace"), ""
    while data := await stream.read(65536):
        write(data)
        *lines, rest = _BREAK.split(rest + decoder.decode(data))
        for line in lines:
            if line.strip():
                seen(redact(line.rstrip())[:2000])
        rest = rest[-65536:]
    if rest.strip():
        seen(redact(rest.rstrip())[:2000])
