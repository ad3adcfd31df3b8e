"""Wait for what comes about in its own time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def eventually(check: Callable[[], Any], seconds: float = 60.0, every: float = 0.2) -> Any:
    """Return the first truthy answer of `check`; fails after `seconds` with the last one."""
    deadline = time.monotonic() + seconds
    while not (answer := check()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {check} gave {answer!r}"
        time.sleep(every)
    return answer
