"""Traffic shifts that go wrong on the local target: death at any write, rivals, strangers, a doubtful API, orphans.

Groups of bench_rollout.py; each judges the Route's whole history (rollout_history.py).
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import product
from typing import Any

from bars import Bar, at_most, exactly, keep
from deploy_target import OPS_PYTHON, SERVICES
from rollout_history import violations
from rollout_stage import JUDGED, STEPS, TWO, Doubtful, Killed, Mortal, Stage, guarding, stage, wait_for

from isotherm import contract, kube, tekton
from isotherm.deploy import routes
from isotherm.deploy.bake import Pace

BLUE, GREEN = {"blue": 100, "green": 0}, {"blue": 0, "green": 100}


def _legal(one: Stage, before: set[str]) -> str:
    """Say what is wrong with the end of a run; empty where nothing is."""
    found = one.target.route()
    if found.shifting or dict(found.weights) not in (BLUE, GREEN):
        return f"the Route ends with {routes.describe(found.weights)}, pending: {found.shifting}"
    added = set(one.target.everything()) ^ before
    return f"objects came or went: {sorted(added)}" if added else ""


def crash() -> list[Bar]:
    """F7: death right before and right after every write of a canary; then the guard alone, or the same run again."""
    rows = []
    with stage() as one, one.recorder() as recorder:
        before = set(one.target.everything())
        one.reset()
        counted = one.cluster(Mortal)
        one.shifter(counted).shift()
        for at, after, again in product(range(1, counted.writes + 1), (False, True), (False, True)):
            start = one.reset()
            try:
                one.shifter(one.cluster(Mortal, at=at, after=after)).shift()
                died = False
            except Killed:
                died = True
            if again:
                one.shifter(one.cluster()).shift()
            else:
                one.guard().look(tekton.utcnow() + timedelta(seconds=61))
            one.target.route()
            history = recorder.since(start)
            wrong = [_legal(one, before), *violations(history, {"run-2": (*STEPS, 100)})]
            rows.append({"write": at, "after": after, "again": again, "died": died, "wrong": [w for w in wrong if w]})
    raw = keep("rollout-crash", rows)
    good = sum(not row["wrong"] and row["died"] for row in rows)
    note = "every write of route-shift; group crash_tasks has the other Tasks'"
    return [exactly("crash points that end legal (F7)", good, len(rows), "points", raw=raw, note=note)]


def rivals(rounds: int = 20) -> list[Bar]:
    """F8: two or five runs want the Route at once, some of them stopped for longer than their expiry."""
    rows = []
    with stage() as one, one.recorder() as recorder, guarding(one):
        rng = random.Random(8)
        for number in range(rounds):
            names = [f"rival-{number}-{i}" for i in range(rng.choice((2, 5)))]
            start, ends = one.reset(), {}

            def run(uid: str, stop: float, ends: dict[str, str] = ends) -> None:
                try:
                    one.target.deploy(one.target.models[TWO], uid, ready_timeout_seconds=10.0)
                    shifter = one.shifter(one.cluster(), uid, expiry_seconds=2.0, verify_timeout_seconds=10.0)
                    write = shifter.routes.write

                    def stopped(*arguments: Any, **options: Any) -> Any:
                        time.sleep(stop * rng.random())
                        return write(*arguments, **options)

                    shifter.routes.write = stopped  # type: ignore[method-assign]
                    ends[uid] = shifter.shift()["outcome"]
                except tekton.TaskError as error:
                    ends[uid] = f"refused: {error.what[:120]}"

            threads = [threading.Thread(target=run, args=(uid, rng.choice((0.0, 0.5, 4.0)))) for uid in names]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            wait_for(lambda: not one.target.route().shifting, 10)
            plans = dict.fromkeys(names, (*STEPS, 100))
            wrong = violations(recorder.since(start), plans)
            winners = [uid for uid, end in ends.items() if end == "shifted"]
            final = one.target.route()
            if final.shifting or (winners and dict(final.weights) != GREEN and final.holder in winners):
                wrong.append(f"ends with {routes.describe(final.weights)} held by {final.holder}, winners {winners}")
            rows.append({"rivals": len(names), "ends": ends, "wrong": wrong})
    raw = keep("rollout-rivals", rows)
    good = sum(not row["wrong"] for row in rows)
    return [exactly("rounds of rivals without a stale write (F8)", good, rounds, "rounds", raw=raw)]


def _by_hand(one: Stage, rng: random.Random) -> dict[str, Any]:
    """What a person or GitOps does to a Route in mid-shift: the patch."""
    kind = rng.choice(("split", "revert", "owner"))
    if kind == "owner":
        owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "1", "controller": True}
        return {"metadata": {"ownerReferences": [owner]}}
    green = rng.randint(1, 99) if kind == "split" else 0
    return routes.backends({"blue": 100 - green, "green": green}, SERVICES)


def foreign(runs: int = 30) -> list[Bar]:
    """F9: weights set by hand, put back by GitOps, or a Route taken over, at a random moment of a canary."""
    rows = []
    with stage() as one, guarding(one):
        rng = random.Random(9)
        for _ in range(runs):
            one.reset()
            ended: list[Any] = []

            def run(ended: list[Any] = ended) -> None:
                try:
                    ended.append(one.shifter(one.cluster(), settings=_slow()).shift())
                except tekton.TaskError as error:
                    ended.append({"outcome": "failed", "problem": error.what})

            thread = threading.Thread(target=run)
            thread.start()
            wait_for(lambda: one.target.route().split, 20)
            time.sleep(rng.random())
            patch = _by_hand(one, rng)
            one.target.write_route(**patch)
            theirs = one.target.stored(kube.ROUTE, one.target.model_name)
            began = time.monotonic()
            thread.join(30)
            seen = time.monotonic() - began
            time.sleep(0.5)
            now = one.target.stored(kube.ROUTE, one.target.model_name)
            ours = now["spec"] != theirs["spec"]
            rows.append({
                "patch": patch, "seconds": seen, "corrected": ours, "outcome": ended[0]["outcome"],
                "problem": ended[0]["problem"],
            })  # fmt: skip
            one.target.write_route(metadata={"ownerReferences": None})
    raw = keep("rollout-foreign", rows)
    red, most = sum(row["outcome"] == "failed" for row in rows), max(int(row["corrected"]) for row in rows)
    return [
        at_most("a foreign write is seen after (F9)", max(r["seconds"] for r in rows), 1.5, "s", n=runs, raw=raw,
                note="a look every 0.2 s, and what ends a run"),
        at_most("corrective writes after it (F9)", most, 1, "writes", n=runs, raw=raw),
        exactly("runs that end red and say so (F9)", red, runs, "runs", raw=raw),
    ]  # fmt: skip


def _slow() -> Any:
    return replace(JUDGED, pace=Pace(0.2, 30, 60), probes_per_second=20)


def ambiguous(runs: int = 30) -> list[Bar]:
    """F29: an API that answers 409, 429 or 500 to a fifth of the writes and loses the answer to a tenth."""
    rows = []
    with stage() as one, one.recorder() as recorder:
        before = set(one.target.everything())
        for number in range(runs):
            start = one.reset()
            doubtful = one.cluster(Doubtful, rng=random.Random(number))
            try:
                outcome = one.shifter(doubtful).shift()["outcome"]
            except tekton.TaskError as error:
                outcome = f"refused: {error.what}"
            wrong = violations(recorder.since(start), {"run-2": (*STEPS, 100)})
            if outcome != "shifted" or dict(one.target.route().weights) != GREEN or _legal(one, before):
                wrong.append(f"{outcome}; {_legal(one, before)}")
            rows.append({"hurt": doubtful.hurt, "outcome": outcome, "wrong": wrong})
    raw = keep("rollout-ambiguous", rows)
    hurt = sum(row["hurt"] for row in rows)
    return [
        exactly("runs that end as without faults (F29)", sum(not r["wrong"] for r in rows), runs, "runs", raw=raw,
                note=f"{hurt} writes hurt")
    ]  # fmt: skip


def deadman(runs: int = 10) -> list[Bar]:
    """F6: SIGKILL of the program route-shift at a random moment of a step; the guard runs as its own program."""
    rows = []
    with stage() as one:
        common = {
            "PATH": os.environ["PATH"], "HOME": str(one.target.folder),
            "KUBECONFIG": str(one.target.local.kubeconfig(one.target.namespace)),
        }  # fmt: skip
        guards = common | {"POLL_SECONDS": "0.5", "GUARDED_X": f"{one.target.model_name}=blue,green"}
        watching = subprocess.Popen(
            [str(OPS_PYTHON), "-m", "isotherm.deploy.guard"],
            env=guards,
            cwd=one.target.folder,
            stdout=subprocess.DEVNULL,
        )
        try:
            rng = random.Random(6)
            for _ in range(runs):
                one.reset()
                driver = subprocess.Popen(
                    [str(OPS_PYTHON), "-m", "isotherm.deploy.shift"], env=common | _inputs(one), cwd=one.target.folder,
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )  # fmt: skip
                wait_for(lambda: one.target.route().split, 30)
                time.sleep(4 * rng.random())
                driver.kill()
                driver.wait()
                rows.append({"seconds": wait_for(lambda: dict(one.target.route().weights) == BLUE, 30)})
        finally:
            watching.send_signal(signal.SIGTERM)
            watching.wait(10)
    raw = keep("rollout-deadman", rows)
    limit = (60 + 10) / 10
    return [
        exactly("orphaned shifts taken back in time (F6)", sum(r["seconds"] <= limit for r in rows), runs, "kills",
                raw=raw, note=f"at most {limit:g} s, expiry 6 s of 60; SIGKILL only: the rest needs a cluster"),
    ]  # fmt: skip


def _inputs(one: Stage) -> dict[str, str]:
    model = one.target.models[TWO]
    return {
        "DRIVER": "route", "ROUTE": one.target.model_name, "SERVICE_BLUE": "blue", "SERVICE_GREEN": "green",
        "COLOUR": "green",
        "MODEL_DIGEST": model.digest, "MODEL_VERSION": model.version, "WEIGHT": "100",
        "ROUTER_URL": one.target.router_url, "VERIFY_REQUESTS": "30", "VERIFY_TIMEOUT_SECONDS": "20",
        "EXPIRY_SECONDS": "6", "PIPELINE_RUN_UID": "run-2", "STEP_WEIGHTS": "20", "INTERVAL_SECONDS": "0.5",
        "BAKE_SECONDS": "60", "HOLD_SECONDS": "60", "MAX_ERROR_RATE": "0.01", "MAX_RATIO": "5",
        "LATENCY_SECONDS": "5", "PROBES_PER_SECOND": "5", "PROMETHEUS_URL": "", "REPORTS_DIR": str(one.target.reports),
        **{f"RESULT_{name}": str(one.target.folder / name) for name in (
            "OUTCOME", "CANARY_VERDICT", "ROUTE_BEFORE", "ROUTE_AFTER", "OBSERVED_SHARE", "LIVE_COLOUR", "LIVE_DIGEST",
            "LIVE_VERSION")},
    }  # fmt: skip


def bites() -> list[Bar]:
    """The history checker on a route-shift that was broken on purpose: it writes whatever stands there meanwhile."""
    with stage() as one, one.recorder() as recorder:
        start = one.reset()
        checked = one.shifter(one.cluster(), "run-2", settings=None).check()
        # Somebody else shifts in between, and this one patches with the newest resourceVersion as if it were its own.
        other = routes.Routes(one.cluster(), SERVICES)
        theirs = other.require(one.target.model_name)
        notes = {
            contract.ANNOTATION_SHIFT_HOLDER: "run-8", contract.ANNOTATION_SHIFT_TOKEN: str(theirs.token + 1),
            contract.ANNOTATION_SHIFT_WEIGHTS: "blue=70 green=30", contract.ANNOTATION_PREVIOUS: "blue",
            contract.ANNOTATION_SHIFT_EXPIRES: tekton.rfc3339(tekton.utcnow() + timedelta(minutes=1)),
        }  # fmt: skip
        other.write(theirs, {"blue": 70, "green": 30}, notes)
        stale = other.require(one.target.model_name)
        other.write(stale, checked.plan.after, checked.plan.annotations)
        found = violations(recorder.since(start))
    raw = keep("rollout-bites", found)
    return [Bar("the checker sees a stale write", len(found), "findings", ">= 1", bool(found), 1, raw)]


GROUPS: tuple[Callable[[], list[Bar]], ...] = (crash, rivals, foreign, ambiguous, deadman, bites)
