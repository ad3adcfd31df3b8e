"""Rollouts on the lab that go wrong: death at a write, rivals that are stopped, a doubtful API, strangers.

Groups of rollout_lab.py (F7 F8 F29 F9). The drivers of F7 and F8 are processes with the Task's own program and
environment; the Routes are guarded by the catalog's Deployment, and judged by their whole history as a watch of the API
has seen it.
"""

from __future__ import annotations

import json
import random
import threading
import time
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from bars import Bar, at_most, exactly, keep
from lab_lanes import ALL_GREEN, EXPIRY_SECONDS, UID, Lane, Row, Stage
from rollout_stage import Doubtful, wait_for
from shift_driver import Door, Driver, params

from isotherm import kube, tekton
from isotherm.deploy import routes, shifts
from isotherm.deploy.bake import Pace
from isotherm.deploy.canary import Settings

STEPS = (20, 50)
# The step's least time is cut further than by 10: what is tried is what happens around the writes.
SHORT = {"step_weights": "20,50", "bake_seconds": "3"}
QUICK = Settings(STEPS, Pace(0.5, 3, 30), probes_per_second=50, latency_seconds=5.0)
WRITES = (
    "weights 20", "heartbeat at 20", "weights 50", "heartbeat at 50", "weights 100", "confirm", "event",
)  # fmt: skip
POINTS = 60
RIVAL = Path(__file__).with_name("rival.py")
TAKEN_BACK_SECONDS = 30.0  # expiry, the guard's poll, and a busy node
LIFE_SECONDS = 150.0
DOUBTFUL_EXPIRY_SECONDS = 20.0


@dataclass(frozen=True)
class Point:
    """Where a driver dies, and whether the same run is started again or the guard is left with it."""

    write: str
    after: bool
    again: bool


def points() -> list[Point]:
    """Each kind of write with both sides and both ways to go on, and others drawn until there are enough."""
    every = [Point(*one) for one in product(WRITES, (False, True), (False, True))]
    return every + random.Random(7).choices(every, k=POINTS - len(every))


def crash(on: Stage) -> list[Bar]:
    """F7: SIGKILL right before and right after a write of a canary; then the same run again, or the guard alone."""
    before = on.lanes[0].objects()

    def work(lane: Lane, point: Point) -> Row:
        """On a node that is short of time the guard may be faster than a driver that lives: then once more."""
        row = _crashed(on, lane, point, before)
        if row["reached"] or row["wrong"]:
            return row
        return _crashed(on, lane, point, before) | {"before": row}

    rows = on.spread(points(), work, lanes=4)
    raw = keep("rollout-lab-crash", rows)
    good = sum(not row["wrong"] and row["reached"] for row in rows)
    ran = [row for row in rows if "events" in row]
    added = sum(len(row["added"]) for row in ran)
    note = (
        f"SIGKILL of the program at a door before the API; every kind of its writes; "
        f"{sum(row['again'] for row in ran)} times the same run again (the guard came before "
        f"{sum(row['again'] and row['guarded'] for row in ran)} of them), else the guard alone; "
        f"{sum(row['events'] for row in ran)} Events besides; {sum('before' in row for row in ran)} points were tried "
        f"twice, as the guard took a living driver's shift back before"
    )
    return [
        exactly("crash points on the lab that end legal (F7)", good, POINTS, "points", raw=raw, note=note),
        at_most("objects that a run after a crash adds (F7)", added if len(ran) == POINTS else None, 0, "objects",
                n=len(ran), raw=raw),
    ]  # fmt: skip


def _crashed(on: Stage, lane: Lane, point: Point, before: set[str]) -> Row:
    start, events = lane.reset(), lane.events()
    given = params(lane, **SHORT)
    with Door(lane, point.write, point.after) as door:
        driver = Driver(lane, door.kubeconfig, given)
        door.strike = driver.kill
        driver.wait(LIFE_SECONDS)
        died, first, said = door.struck, list(door.writes), driver.last_line()
        status: int | None = 0
        if point.again:
            again = Driver(lane, door.kubeconfig, given)
            status, said = again.wait(LIFE_SECONDS), again.last_line()
    waited = wait_for(lambda: not lane.route().shifting, TAKEN_BACK_SECONDS)
    added, end = sorted(lane.objects() - before), lane.route()
    # Where the guard was faster than the second run, that one must have seen it and said so.
    guarded = end.holder == shifts.GUARD
    wrong = [*on.wrong(lane, start, UID, steps=STEPS), lane.legal()]
    if point.again and (status == 0) != (end.live == "green" and not guarded):
        wrong.append(f"the second run ended with {status}, the Route with {routes.describe(end.weights)}: {said}")
    if status != 0 and not guarded:
        wrong.append(f"the second run failed by itself: {said}")
    wrong += [f"{one} came" for one in added]
    return {
        "write": point.write, "after": point.after, "again": point.again, "reached": died, "writes": first,
        "guard_seconds": waited, "guarded": guarded, "status": status, "added": added,
        "events": lane.events() - events, "said": said,
        "wrong": [one for one in wrong if one],
    }  # fmt: skip


def rivals(on: Stage, rounds: int = 20) -> list[Bar]:
    """F8: two or five runs want a Route at once; one of them is stopped for longer than its expiry."""

    def work(lane: Lane, number: int) -> Row:
        return _round(on, lane, number)

    # Five processes a round: more than three rounds at once would measure the node.
    rows = on.spread(range(rounds), work, lanes=3)
    raw = keep("rollout-lab-rivals", rows)
    told = [row for row in rows if "stale" in row]
    stale = sum(len(row["stale"]) for row in told) if len(told) == rounds else None
    won = sum(not row["wrong"] for row in rows)
    stopped = sum(row.get("holder_stopped", False) for row in rows)
    return [
        at_most("stale writes that the lab's API took (F8)", stale, 0, "writes", n=rounds, raw=raw,
                note=f"of {rounds} rounds; 100 are asked for"),
        exactly("rounds of rivals on the lab with one winner (F8)", won, rounds, "rounds", raw=raw,
                note=f"SIGSTOP for 0 to 9 s beyond the expiry of {EXPIRY_SECONDS:g} s, in {stopped} of whoever held "
                "the Route; who is refused tries again"),
    ]  # fmt: skip


def _round(on: Stage, lane: Lane, number: int) -> Row:
    rng = random.Random(800 + number)
    names = [f"rival-{number}-{i}" for i in range(5 if number % 4 == 3 else 2)]
    start = lane.reset()
    running = {}
    try:
        for name in names:
            given = params(lane, name, step_weights="20", bake_seconds="2")
            running[name] = Driver(lane, lane.kubeconfig, given, (str(RIVAL), "90"))
        for one in running.values():
            one.go()
        stopped, holding = _stop_one(lane, running, rng, hold=bool(number % 2))
        ended = [one.wait(LIFE_SECONDS) for one in running.values()]
    finally:
        for one in running.values():
            one.kill()
    wait_for(lambda: not lane.route().shifting, TAKEN_BACK_SECONDS)
    ends = {name: json.loads((one.folder / "ends.json").read_text()) for name, one in running.items()}
    winners = [name for name, tries in ends.items() if tries[-1] == "shifted"]
    stale = on.wrong(lane, start, *names, steps=(20,))
    wrong = [*stale, lane.legal(ALL_GREEN)]
    wrong += [] if len(winners) == 1 else [f"winners: {winners}"]
    wrong += [] if lane.route().holder in winners else [f"the Route is {lane.route().holder}'s"]
    wrong += [] if ended == [0] * len(names) else [f"exit statuses {ended}"]
    return {
        "rivals": len(names), "ends": ends, "stopped": stopped, "holder_stopped": holding, "stale": stale,
        "wrong": [one for one in wrong if one],
    }  # fmt: skip


def _stop_one(lane: Lane, running: dict[str, Driver], rng: random.Random, *, hold: bool) -> tuple[str, bool]:
    """Stop whoever shifts first (`hold`), or anybody, at a random moment, for up to 9 s beyond an expiry.

    Returns who it was, and whether the Route was its own at that moment.
    """
    victim = rng.choice(sorted(running))
    if hold:
        wait_for(lambda: lane.route().shifting and lane.route().holder in running, 30)
    time.sleep(5 * rng.random())
    found = lane.route()
    if hold and found.shifting and found.holder in running:
        victim = found.holder
    running[victim].stop()
    try:
        found = lane.route()
        holding = found.shifting and found.holder == victim
        time.sleep(EXPIRY_SECONDS + 9 * rng.random())
    finally:
        running[victim].carry_on()
    return victim, holding


def ambiguous(on: Stage, runs: int = 30) -> list[Bar]:
    """F29: a client to whom a fifth of its writes is answered with 409, 429 or 500, and to whom a tenth is not answered
    that was done.
    """
    before = on.lanes[0].objects()

    def work(lane: Lane, number: int) -> Row:
        start = lane.reset()
        doubtful = lane.cluster(Doubtful, rng=random.Random(number))
        try:
            # The client's pauses between tries, up to 5 s, are no tenth of anything: the expiry leaves room for three.
            report = lane.shifter("green", QUICK, cluster=doubtful, expiry_seconds=DOUBTFUL_EXPIRY_SECONDS).shift()
            outcome, problem = report["outcome"], report["problem"]
        except tekton.TaskError as error:
            outcome, problem = "refused", error.what
        wrong = [*on.wrong(lane, start, UID, steps=STEPS), lane.legal(ALL_GREEN)]
        wrong += [f"{one} came" for one in sorted(lane.objects() - before)]
        wrong += [] if outcome == "shifted" else [f"{outcome}: {problem}"]
        return {"hurt": doubtful.hurt, "outcome": outcome, "wrong": [one for one in wrong if one]}

    rows = on.spread(range(runs), work)
    raw = keep("rollout-lab-ambiguous", rows)
    hurt = sum(row.get("hurt", 0) for row in rows)
    return [exactly("runs on the lab that end as without faults (F29)", sum(not r["wrong"] for r in rows), runs, "runs",
                    raw=raw, note=f"{hurt} writes hurt; expiry {DOUBTFUL_EXPIRY_SECONDS:g} s")]  # fmt: skip


def foreign(on: Stage, runs: int = 30) -> list[Bar]:
    """F9: weights set by hand, put back by GitOps, or a Route taken over, at a random moment of a canary."""
    rows = on.spread(range(runs), _interrupted)
    raw = keep("rollout-lab-foreign", rows)
    told = [row for row in rows if "seconds" in row]
    whole = len(told) == runs
    return [
        at_most("a foreign write on the lab is seen after (F9)", max(r["seconds"] for r in told) if whole else None, 3,
                "s", n=runs, raw=raw, note="a look every 0.5 s, every 2 s while the split is verified"),
        at_most("corrective writes on the lab after it (F9)", sum(r["corrected"] for r in told) if whole else None, 0,
                "writes", n=runs, raw=raw),
        exactly("runs on the lab that end red and say so (F9)", sum(not row["wrong"] for row in rows), runs, "runs",
                raw=raw),
    ]  # fmt: skip


def _interrupted(lane: Lane, number: int) -> Row:
    rng = random.Random(900 + number)
    lane.reset()
    ended: list[dict[str, Any]] = []

    def run() -> None:
        try:
            ended.append(lane.shifter("green", replace(QUICK, pace=Pace(0.5, 30, 60))).shift())
        except tekton.TaskError as error:
            ended.append({"outcome": "failed", "problem": error.what})

    thread = threading.Thread(target=run)
    thread.start()
    wait_for(lambda: lane.route().split, 30)
    time.sleep(8 * rng.random())  # while the router still reloads, too
    patch = _by_hand(lane, rng)
    theirs = lane.patch(kube.ROUTE, lane.name, patch)
    began = time.monotonic()
    thread.join(60)
    seen = time.monotonic() - began
    time.sleep(0.5)
    now = lane.api.get(kube.ROUTE, lane.name)
    lane.patch(kube.ROUTE, lane.name, {"metadata": {"ownerReferences": None}})
    end = ended[0] if ended else {"outcome": "still running", "problem": ""}
    return {
        "patch": patch, "seconds": seen, "corrected": bool(now and now["spec"] != theirs["spec"]),
        "outcome": end["outcome"], "problem": end["problem"],
        "wrong": [] if end["outcome"] == "failed" and end["problem"] else [end["outcome"]],
    }  # fmt: skip


def _by_hand(lane: Lane, rng: random.Random) -> dict[str, Any]:
    """What a person or GitOps does to a Route in mid-shift: the patch."""
    kind = rng.choice(("split", "revert", "owner"))
    if kind == "owner":
        # Not a real owner: the cluster's garbage collector would take the Route with one that does not exist.
        uid = lane.api._core.read_namespace(lane.api.namespace).metadata.uid
        owner = {"apiVersion": "v1", "kind": "Namespace", "name": lane.api.namespace, "uid": uid, "controller": True}
        return {"metadata": {"ownerReferences": [owner]}}
    green = rng.choice([w for w in range(1, 100) if w not in STEPS]) if kind == "split" else 0
    return routes.backends({"blue": 100 - green, "green": green}, lane.services)
