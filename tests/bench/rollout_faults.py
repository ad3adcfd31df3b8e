"""Traffic shifts that go wrong on the local target: rivals, strangers, a doubtful API, orphans.

Groups of bench_rollout.py; each judges the Route's whole history (rollout_history.py).
"""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import task_program
from bars import Bar, at_most, exactly, keep
from deploy_target import OPS_PYTHON, SERVICES
from rollout_history import violations
from rollout_stage import BLUE, GREEN, JUDGED, STEPS, TWO, Doubtful, Stage, guarding, stage, stages, wait_for
from spread import Row, spread

from isotherm import kube, tekton
from isotherm.deploy import routes
from isotherm.deploy.bake import Pace

LANES = 4
RIVAL_EXPIRY_SECONDS, STOPS = 2.0, (0.0, 0.5, 4.0)
# Of an orphan: the steps at which drivers are killed, how long each lasts at least, and a tenth of expiry and 10 s.
WATCHED, BAKE_SECONDS, BACK_SECONDS = (10, 25, 50), 5.0, (60 + 10) / 10


def rivals(rounds: int = 100) -> list[Bar]:
    """F8: two or five runs want the Route at once, some of them stopped for longer than their expiry."""
    with stages(LANES) as lanes, ExitStack() as guards:
        for one in lanes:
            guards.enter_context(guarding(one))
        rows = spread(lanes, range(rounds), _round)
    raw = keep("rollout-rivals", rows)
    good, stopped = sum(not row["wrong"] for row in rows), sum(any(row.get("stops", ())) for row in rows)
    note = f"expiry {RIVAL_EXPIRY_SECONDS:g} s; in {stopped} a run stops before its writes, for up to {max(STOPS):g} s"
    return [exactly("rounds of rivals without a stale write (F8)", good, rounds, "rounds", raw=raw, note=note)]


def _round(one: Stage, number: int) -> Row:
    rng = random.Random(800 + number)
    names = [f"rival-{number}-{i}" for i in range(rng.choice((2, 5)))]
    stops = [rng.choice(STOPS) for _ in names]
    start, ends = one.reset(), {}

    def run(uid: str, stop: float) -> None:
        try:
            one.target.deploy(one.target.models[TWO], uid, ready_timeout_seconds=10.0)
            shifter = one.shifter(one.cluster(), uid, expiry_seconds=RIVAL_EXPIRY_SECONDS, verify_timeout_seconds=10.0)
            write = shifter.routes.write

            def stopped(*arguments: Any, **options: Any) -> Any:
                time.sleep(stop * rng.random())
                return write(*arguments, **options)

            shifter.routes.write = stopped  # type: ignore[method-assign]
            ends[uid] = shifter.shift()["outcome"]
        except tekton.TaskError as error:
            ends[uid] = f"refused: {error.what[:120]}"

    threads = [threading.Thread(target=run, args=pair) for pair in zip(names, stops, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_for(lambda: not one.target.route().shifting, 10)
    wrong = violations(one.recorder.since(start), dict.fromkeys(names, (*STEPS, 100)))
    wrong += [f"{uid} never ended" for uid in names if uid not in ends]
    winners = [uid for uid, end in ends.items() if end == "shifted"]
    final = one.target.route()
    if final.shifting or (winners and dict(final.weights) != GREEN and final.holder in winners):
        wrong.append(f"ends with {routes.describe(final.weights)} held by {final.holder}, winners {winners}")
    return {"rivals": len(names), "stops": stops, "ends": ends, "wrong": wrong}


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
    with stages(LANES) as lanes:
        rows = spread(lanes, range(runs), _doubted)
    raw = keep("rollout-ambiguous", rows)
    hurt = sum(row.get("hurt", 0) for row in rows)
    return [
        exactly("runs that end as without faults (F29)", sum(not r["wrong"] for r in rows), runs, "runs", raw=raw,
                note=f"{hurt} writes hurt")
    ]  # fmt: skip


def _doubted(one: Stage, number: int) -> Row:
    before, start = set(one.target.everything()), one.reset()
    doubtful = one.cluster(Doubtful, rng=random.Random(number))
    try:
        outcome = one.shifter(doubtful).shift()["outcome"]
    except tekton.TaskError as error:
        outcome = f"refused: {error.what}"
    wrong = violations(one.recorder.since(start), {"run-2": (*STEPS, 100)})
    if outcome != "shifted" or dict(one.target.route().weights) != GREEN or one.legal(before):
        wrong.append(f"{outcome}; {one.legal(before)}")
    return {"hurt": doubtful.hurt, "outcome": outcome, "wrong": wrong}


def deadman(runs: int = 50) -> list[Bar]:
    """F6: SIGKILL of the program route-shift at a random moment of each step; guards run as programs of their own."""
    with stages(LANES) as lanes, ExitStack() as guards:
        for one in lanes:
            guards.enter_context(_guard_program(one))
        rows = spread(lanes, range(runs), _orphaned)
    raw = keep("rollout-deadman", rows)
    good, slowest = sum(not row["wrong"] for row in rows), max(row.get("seconds", math.inf) for row in rows)
    return [
        exactly("orphaned shifts taken back in time (F6)", good, runs, "kills", raw=raw,
                note=f"at most {BACK_SECONDS:g} s, expiry 6 s of 60; the slowest {slowest:.1f} s; steps "
                f"{', '.join(map(str, WATCHED))} % in turn; SIGKILL only: the rest needs a cluster"),
    ]  # fmt: skip


def _environment(one: Stage) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"], "HOME": str(one.target.folder),
        "KUBECONFIG": str(one.target.local.kubeconfig(one.target.namespace)),
    }  # fmt: skip


def _canary(one: Stage) -> dict[str, str]:
    """The variables of Task route-shift's step for a canary that stays at each step for a while."""
    model = one.target.models[TWO]
    given = {
        "route": one.target.model_name, "colour": "green", "model-digest": model.digest, "model-version": model.version,
        "router-url": one.target.router_url, "pipeline-run-uid": "run-2", "expiry-seconds": "6",
        "verify-requests": "30", "verify-timeout-seconds": "20", "step-weights": ",".join(map(str, WATCHED)),
        "interval-seconds": "0.5", "bake-seconds": f"{BAKE_SECONDS:g}", "hold-seconds": "60",
        "probes-per-second": "100", "latency-seconds": "5",
    }  # fmt: skip
    of, reports = task_program.task("route-shift"), {"reports": one.target.reports}
    return _environment(one) | task_program.environment(of, given, reports, one.target.folder)


@contextmanager
def _guard_program(one: Stage) -> Iterator[None]:
    """The guard as Deployment route-guard starts it, beside a block."""
    env = _environment(one) | {"POLL_SECONDS": "0.5", "GUARDED_X": f"{one.target.model_name}=blue,green"}
    command = [str(OPS_PYTHON), "-m", "isotherm.deploy.guard"]
    watching = subprocess.Popen(command, env=env, cwd=one.target.folder, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        watching.send_signal(signal.SIGTERM)
        watching.wait(10)


def _orphaned(one: Stage, number: int) -> Row:
    """Kill at the steps in turn, once the Route has the step's weights, within its bake."""
    step, moment = WATCHED[number % len(WATCHED)], random.Random(600 + number).random() * BAKE_SECONDS
    one.reset()
    driver = subprocess.Popen(
        [str(OPS_PYTHON), "-m", "isotherm.deploy.shift"], env=_canary(one), cwd=one.target.folder,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        reached = wait_for(lambda: one.target.route().weights["green"] == step, 60) < math.inf
        time.sleep(moment)
    finally:
        driver.kill()
        driver.wait()
    orphan = one.target.route()
    seconds = wait_for(lambda: dict(one.target.route().weights) == BLUE, 30)
    wrong = [] if reached and orphan.split else [f"killed at {routes.describe(orphan.weights)}, not at {step} %"]
    wrong += [] if seconds <= BACK_SECONDS else [f"taken back after {seconds:.1f} s"]
    return {"step": step, "moment": moment, "orphan": dict(orphan.weights), "seconds": seconds, "wrong": wrong}


GROUPS: tuple[Callable[[], list[Bar]], ...] = (rivals, foreign, ambiguous, deadman)
