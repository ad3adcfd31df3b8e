"""Wait for what comes about in its own time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def eventually(check: Callable[[], Any], seconds: float = 60.0, every: float = 0.2) -> Any:
    """Return the first truthy answer of `check`; fails after `seconds` with the last one."""
    deadline = time.monotonic() + seconds
    while not (answer := check()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {check} gave {answer!r}"
        time.sleep(every)
    return answer


@contextmanager
def beside(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run `work` in a thread beside the block; it ends when its event is set, at the block's end."""
    ended = threading.Event()
    thread = threading.Thread(target=work, args=(ended,))
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
