"""Live rollouts on the lab whose canary errs, dawdles or strays by a known amount: which verdicts are wrong (F4).

A group of rollout_lab.py. Clients ask through the router; the Task's own code splits the traffic in half, reads both
models' counters and decides. Between 1 % of errors, which is tolerated, and 5 % no verdict is wrong.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bars import Bar, at_most, keep
from lab_lanes import ALL_BLUE, ALL_GREEN, LANES, UID, Lane, Row, Stage

from isotherm import tekton
from isotherm.deploy.bake import Pace
from isotherm.deploy.canary import Settings
from isotherm.rollout.judge import Verdict

LOAD = Path(__file__).with_name("steady_load.py")
PER_SECOND = 100.0  # to each Route: 50 requests of the canary's a second
TRIES = 4
STEP = 50
# Clients alone are judged: the light models wait as long as they say, so many at once, while probes ask one by one.
SETTINGS = Settings((STEP,), Pace(1.0, 6, 30), probes_per_second=0, latency_seconds=0.05)
STABLE = {"errors": 0.01, "seconds": 0.02}  # the model beside it errs at 1 %; 1 of 8,000 of its answers is slow
BOTH = (Verdict.PROMOTE, Verdict.ROLLBACK)


@dataclass(frozen=True)
class Case:
    """What is the matter with a canary, and the verdicts that are right."""

    name: str
    how: dict[str, float]
    right: tuple[Verdict, ...]


def _errors(rate: float) -> Case:
    right = (Verdict.PROMOTE,) if rate <= 0.01 else (Verdict.ROLLBACK,) if rate >= 0.05 else BOTH
    return Case(f"errors {rate:.0%}", STABLE | {"errors": rate}, right)


CASES = (
    *map(_errors, (0.0, 0.01, 0.02, 0.03, 0.05, 0.10, 1.0)),
    Case("latency x1.2", STABLE | {"slow": 1.2}, (Verdict.PROMOTE,)),
    Case("latency x2", STABLE | {"slow": 2.0}, (Verdict.ROLLBACK,)),
    Case("residual x3", STABLE | {"residual": 3.0}, (Verdict.ROLLBACK,)),
)


@contextmanager
def clients(on: Stage) -> Iterator[None]:
    """A niced process that asks every lane's Route."""
    where, hosts = urlsplit(on.space.target.router).netloc, [lane.route().host for lane in on.lanes]
    command = ["nice", "-n", "5", sys.executable, str(LOAD), where, f"{PER_SECOND:g}", *hosts]
    process = subprocess.Popen(command)
    try:
        yield
        assert process.poll() is None, "the clients ended before the rollouts"
    finally:
        process.terminate()
        process.wait()


def live(on: Stage) -> list[Bar]:
    """F4: forty rollouts, four of each kind."""
    with clients(on):
        rows = on.spread([case for _ in range(TRIES) for case in CASES], lambda lane, case: _rollout(on, lane, case))
    count = TRIES * len(CASES)
    table = [_told(case, [row for row in rows if row.get("case") == case.name]) for case in CASES]
    raw = keep("rollout-lab-live", {"kinds": table, "rollouts": rows})
    for line in table:
        print(", ".join(f"{name} {value}" for name, value in line.items()), file=sys.stderr, flush=True)
    done = [row for row in rows if "verdict" in row]
    whole = len(done) == count
    wrong = sum(row["verdict"] not in row["right"] for row in done)
    healthy = [_requests(row) for row in done if row["case"] == "errors 1%"]
    broken = sum(bool(row["wrong"]) for row in rows)
    return [
        at_most("wrong verdicts of live rollouts (F4)", wrong if whole else None, 0, f"of {count}", n=count, raw=raw,
                note=f"{TRIES} of each of {len(CASES)} kinds, {LANES} at once; 2 and 3 % of errors: either is right"),
        at_most("canary requests for a live verdict on 1 % (F4)", statistics.mean(healthy) if healthy else None, 350,
                "mean", n=len(healthy), raw=raw, note="looks are a second apart, at least 6 s"),
        at_most("live rollouts that end as no verdict does (F4)", broken, 0, f"of {count}", n=count, raw=raw),
    ]  # fmt: skip


def _rollout(on: Stage, lane: Lane, case: Case) -> Row:
    row = rollout(on, lane, case.name, case.how, SETTINGS)
    return row | {"right": [verdict.value for verdict in case.right]}


def rollout(on: Stage, lane: Lane, name: str, how: dict[str, float], settings: Settings, **changes: float) -> Row:
    """Let a canary that behaves like this be judged at one share, and tell how that ended.

    Without a verdict the row has none, and says why in `wrong`.
    """
    start = lane.reset()
    lane.behave("blue", **STABLE)
    lane.behave("green", **how)
    try:
        report = lane.shifter("green", settings, **changes).shift()
    except tekton.TaskError as error:
        return {"case": name, "wrong": [f"refused: {error.what}"]}
    if not report["steps"]:
        return {"case": name, "wrong": [f"not judged: {report['problem']}"]}
    [step] = report["steps"]
    promoted = step["verdict"] == Verdict.PROMOTE
    wrong = [*on.wrong(lane, start, UID, steps=(STEP,)), lane.legal(ALL_GREEN if promoted else ALL_BLUE)]
    return {
        "case": name, "verdict": step["verdict"], "reason": step["reason"], "seconds": step["seconds"],
        "counts": step["counts"], "problem": report["problem"], "wrong": [one for one in wrong if one],
    }  # fmt: skip


def _requests(row: Row) -> int:
    """How many of the canary's requests a verdict took."""
    count: int = row["counts"]["errors"][0][1]
    return count


def _told(case: Case, rows: list[Row]) -> dict[str, Any]:
    """One kind of canary in a line."""
    judged = [row for row in rows if "verdict" in row]
    return {
        "kind": case.name, "n": len(rows), "promoted": sum(row["verdict"] == Verdict.PROMOTE for row in judged),
        "wrong": sum(row["verdict"] not in row["right"] for row in judged),
        "requests": [_requests(row) for row in judged], "seconds": [row["seconds"] for row in judged],
    }  # fmt: skip
