"""The history checker on shifts that are broken on purpose, to show that it bites. A group of bench_rollout.py."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any
from unittest import mock

from bars import Bar, at_most, exactly, keep
from deploy_target import SERVICES
from rollout_history import unfounded, violations
from rollout_stage import JUDGED, STEPS, Stage, stage
from serving import Quiet, served

from isotherm import contract, tekton
from isotherm.deploy import routes
from isotherm.rollout.judge import Judge, Verdict


def _unfenced(one: Stage) -> None:
    """Writes whatever stands there meanwhile: somebody else shifts, and it patches with the newest resourceVersion."""
    checked = one.shifter(one.cluster(), "run-2", settings=None).check()
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


def _kept_at_zero(one: Stage) -> None:
    """Rolls back by weight 0, and leaves the backend in the Route."""
    one.shifter(one.cluster(), settings=None, weight=50).shift()
    back = one.target.shifter("previous", None, "rollback")
    _with_write(back, lambda write, *what, alone: write(*what, alone=False))
    back.shift()


def _unending(one: Stage) -> None:
    """Notes no expiry beside its weights."""
    shifter = one.shifter(one.cluster(), settings=None, weight=50)

    def write(write: Any, route: Any, weights: Any, notes: dict[str, Any], *, alone: bool) -> Any:
        return write(route, weights, notes | {contract.ANNOTATION_SHIFT_EXPIRES: None}, alone=alone)

    _with_write(shifter, write)
    shifter.shift()


def _blind(one: Stage) -> None:
    """Takes samples that are no numbers for no reason to hold."""
    verdict = Judge.verdict

    def passing(judge: Judge) -> Verdict:
        found = verdict(judge)
        return Verdict.PROMOTE if found is Verdict.HOLD else found

    with served(_NoNumbers) as prometheus, mock.patch.object(Judge, "verdict", passing):
        one.shifter(one.cluster(), settings=replace(JUDGED, prometheus_url=prometheus)).shift()


class _NoNumbers(Quiet):
    """A Prometheus whose every sample is NaN."""

    def do_GET(self) -> None:
        sample = {"metric": {}, "value": [time.time(), "NaN"]}
        body = json.dumps({"status": "success", "data": {"resultType": "vector", "result": [sample]}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _with_write(shifter: Any, broken: Callable[..., Any]) -> None:
    """Let a shift write through `broken`, which is given the sound write and what it was called with."""
    write = shifter.routes.write
    shifter.routes.write = lambda *what, alone=False: broken(write, *what, alone=alone)


def bites() -> list[Bar]:
    """The history checker on a route-shift that is broken on purpose, in four ways, and on a sound one."""
    rows = []
    with stage() as one:
        for broken in (None, _unfenced, _kept_at_zero, _unending, _blind):
            start = one.reset()
            shutil.rmtree(one.target.reports / contract.REPORT_DECISIONS, ignore_errors=True)
            ended = "shifted"
            try:
                broken(one) if broken else one.shifter(one.cluster()).shift()
            except tekton.TaskError as error:
                ended = error.what
            seen = one.recorder.since(start)
            found = violations(seen, {"run-2": (*STEPS, 100)})
            found += unfounded(seen, "run-2", one.target.reports / contract.REPORT_DECISIONS)
            rows.append({"broken": (broken.__doc__ or "").strip() if broken else "", "ended": ended, "found": found})
    raw = keep("rollout-bites", rows)
    seen_through = sum(bool(row["found"]) for row in rows if row["broken"])
    return [
        exactly("broken shifts that the checker sees through", seen_through, len(rows) - 1, "shifts", raw=raw,
                note="no fencing, weight 0 instead of removal, no expiry, a gate that NaN passes"),
        at_most("what it finds in a sound one", len(rows[0]["found"]), 0, "findings", n=1, raw=raw),
    ]  # fmt: skip
