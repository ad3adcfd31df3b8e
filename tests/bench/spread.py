"""Jobs spread over several lanes at once, each lane doing one after the other."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Lane = TypeVar("Lane")
Job = TypeVar("Job")
Row = dict[str, Any]


def spread(lanes: Sequence[Lane], jobs: Iterable[Job], work: Callable[[Lane, Job], Row]) -> list[Row]:
    """Do each job on whichever lane is free; one that breaks is a row too, with what is `wrong`."""
    waiting = deque(jobs)

    def along(lane: Lane) -> list[Row]:
        rows: list[Row] = []
        while True:
            try:
                job = waiting.popleft()
            except IndexError:
                return rows
            try:
                rows.append(work(lane, job))
            except Exception as error:
                told = "".join(traceback.format_exception(error)[-3:])
                rows.append({"job": str(job), "wrong": [f"{type(error).__name__}: {error}"[:500], told[-1500:]]})

    with ThreadPoolExecutor(len(lanes)) as pool:
        return [row for rows in pool.map(along, lanes) for row in rows]
