"""Processes of the local target: started so that they end with their parent, told apart from strangers, ended by pid.

Reads `/proc`; Linux only, as HAProxy's and the kernel's parent-death signal are used.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[2]
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def interpreter(family: str) -> Path:
    """Name the Python of an image family's own environment."""
    return ROOT / ".venv" / family / "bin" / "python"


def own_interpreter() -> Path:
    """Name the Python that runs the local target's servers: its own environment, else the one that asks."""
    own = interpreter("local")
    return own if own.exists() else Path(sys.executable)


def environment(home: Path, path: Path) -> dict[str, str]:
    """Build the environment of a child: nothing of the caller's, who may hold credentials in it."""
    home.mkdir(parents=True, exist_ok=True)
    return {
        "PATH": f"{path}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
    }


def identity(pid: int) -> str | None:
    """Tell one life of a pid from the next: boot and start time in clock ticks; None when it does not run."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return None if fields[0] in "ZX" else f"{boot}:{fields[19]}"


@dataclass(frozen=True)
class Process:
    """A process that this project started: signals go to that very life of the pid or nowhere."""

    pid: int
    identity: str

    @classmethod
    def of(cls, pid: int) -> Process:
        """Describe a running process."""
        return cls(pid, identity(pid) or "gone")

    def alive(self) -> bool:
        """Tell whether it still runs."""
        return identity(self.pid) == self.identity

    def signal(self, number: int) -> None:
        """Send a signal if it still runs."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def rss_mib(self) -> float:
        """Resident memory in MiB; 0 when it does not run."""
        with contextlib.suppress(OSError, IndexError):
            pages = int(Path(f"/proc/{self.pid}/statm").read_text(encoding="utf-8").split()[1])
            return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
        return 0.0


def end(
    processes: Iterable[Process],
    grace_seconds: float = 5.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Ask processes to end, all at once, and kill those that have not after `grace_seconds`."""
    remaining = [process for process in processes if process.alive()]
    for process in remaining:
        process.signal(signal.SIGTERM)
    deadline = clock() + grace_seconds
    while remaining and clock() < deadline:
        sleep(0.02)
        remaining = [process for process in remaining if process.alive()]
    for process in remaining:
        process.signal(signal.SIGKILL)


def _die_with(parent: int) -> Callable[[], None]:
    def prepare() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # the parent died before the kernel was told
            os._exit(1)

    return prepare


def spawn(
    command: list[str], *, env: Mapping[str, str], cwd: Path, log: IO[Any], **options: Any
) -> subprocess.Popen[bytes]:
    """Start a child that ends when this process does; call it from the main thread only.

    (The kernel's signal follows the thread that forked, so a child of a worker thread would die with that thread.)
    """
    return subprocess.Popen(
        command,
        env=dict(env),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        preexec_fn=_die_with(os.getpid()),
        **options,
    )


def last_line(log: Path, limit: int = 65536) -> str:
    """Return the last non-empty line of a log, at most 500 characters; empty where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - limit))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip()[:500] for line in reversed(lines) if line.strip()), "")
