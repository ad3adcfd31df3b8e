"""Parts of the lab that die: a controller's pods, or a daemon of the node that stays away for a while."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from functools import partial

from waiting import eventually

from lab import daemons, parts
from lab.part import Lab


def pods(namespace: str, selector: str) -> Callable[[Callable[..., str]], None]:
    """Delete a controller's pods at once; its Deployment makes another. What is returned takes the kubectl to use."""

    def act(kubectl: Callable[..., str]) -> None:
        kubectl("delete", "pod", "-n", namespace, "-l", selector, "--grace-period=0", "--force")

    return act


def daemon(part: str, name: str, away_seconds: float) -> Callable[[Callable[..., str]], None]:
    """SIGKILL a process of the node, stay away for a while, start it again."""

    def act(_: Callable[..., str]) -> None:
        lab = Lab()
        process = daemons.find(lab, name)
        assert process is not None
        for one in [process, *daemons.session(process.pid)]:
            one.signal(signal.SIGKILL)
        time.sleep(away_seconds)
        parts.TABLE[part].start(lab)
        all_ready(part, seconds=90)

    return act


def all_ready(*names: str, seconds: float = 120) -> None:
    """Wait until these parts are ready."""
    for name in names:
        eventually(partial(_ready, name), seconds)


def _ready(name: str) -> bool:
    return not parts.TABLE[name].ready(Lab())
