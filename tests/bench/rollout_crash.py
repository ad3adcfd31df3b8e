"""A canary whose driver is struck at a write, on the local target: it dies there, or is held up beside a second pod.

Groups of bench_rollout.py; each judges the Route's whole history (rollout_history.py). task_crash.py has other Tasks.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import timedelta
from itertools import product
from typing import Any

from bars import Bar, exactly, keep
from rollout_history import violations
from rollout_stage import STEPS, Killed, Stage, Struck, stage
from spread import Row

from isotherm import tekton


def crash() -> list[Bar]:
    """F7: death right before and right after every write of a canary; then the guard alone, or the same run again.

    The writes are numbered as they come, until a number is reached no more: a slow verification renews the expiry once
    more than a quick one.
    """
    rows: list[Row] = []
    with stage() as one:
        before = set(one.target.everything())
        for at in itertools.count(1):
            tried = [_died(one, before, at, *how) for how in product((False, True), (False, True))]
            rows += [row for row in tried if row["died"] or row["wrong"]]
            if not any(row["died"] for row in tried):
                break
    raw = keep("rollout-crash", rows)
    good = sum(not row["wrong"] for row in rows)
    note = "every write of route-shift; group crash_tasks has the other Tasks'"
    return [exactly("crash points that end legal (F7)", good, len(rows), "points", raw=raw, note=note)]


def _died(one: Stage, before: set[str], at: int, after: bool, again: bool) -> Row:
    """A canary whose driver dies at its write `at`, and what becomes of the Route."""
    start = one.reset()
    try:
        one.shifter(one.cluster(Struck, at=at, after=after)).shift()
        died = False
    except Killed:
        died = True
    if again:
        one.shifter(one.cluster()).shift()
    else:
        one.guard().look(tekton.utcnow() + timedelta(seconds=61))
    one.target.route()
    wrong = [one.legal(before), *violations(one.recorder.since(start), {"run-2": (*STEPS, 100)})]
    return {"write": at, "after": after, "again": again, "died": died, "wrong": [w for w in wrong if w]}


def zombies() -> list[Bar]:
    """F16: two pods of one TaskRun, at every write of a canary. The first is held up there while the second runs to its
    end, and goes on then.
    """
    rows: list[Row] = []
    with stage() as one:
        before = set(one.target.everything())
        for at in itertools.count(1):
            tried = [_met(one, before, at, after) for after in (False, True)]
            rows += [row for row in tried if row["second"] or row["wrong"]]
            if not any(row["second"] for row in tried):
                break
    raw = keep("rollout-zombies", rows)
    good, refused = sum(not row["wrong"] for row in rows), sum(row["first"].startswith("refused") for row in rows)
    note = f"every write of route-shift; {refused} times the first was refused, else it found all done"
    name = "two pods of route-shift of which one shifts (F16)"
    return [exactly(name, good, len(rows), "meetings", raw=raw, note=note)]


def _met(one: Stage, before: set[str], at: int, after: bool) -> Row:
    """A canary whose driver is held up at its write `at`, and what becomes of the Route."""
    start, second = one.reset(), []
    first = _end(one.shifter(one.cluster(Struck, at=at, after=after, strike=lambda: second.append(_second(one)))))
    ends = [first, *second]
    wrong = [one.legal(before), *violations(one.recorder.since(start), {"run-2": (*STEPS, 100)})]
    wrong += [] if one.target.route().live == "green" else ["the model does not have the traffic"]
    wrong += [] if ends.count("shifted") == 1 else [f"not one of them shifted: {ends}"]
    wrong += [f"{end}" for end in second if end.startswith("refused")]
    return {
        "write": at, "after": after, "first": first, "second": second[0] if second else "",
        "wrong": [w for w in wrong if w],
    }  # fmt: skip


def _second(one: Stage) -> str:
    return _end(one.shifter(one.cluster()))


def _end(shifter: Any) -> str:
    """How a shift ends: its outcome, or that it was refused and why."""
    try:
        report = shifter.shift()
    except tekton.TaskError as error:
        return f"refused: {error.what[:120]}"
    return f"refused: {report['problem'][:120]}" if report["problem"] else str(report["outcome"])


GROUPS: tuple[Callable[[], list[Bar]], ...] = (crash, zombies)
