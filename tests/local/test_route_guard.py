"""The dead man's switch of a shift, on the local target: only what nobody carries on is taken back."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from deploy_target import OPS_PYTHON, SERVICES, Target, started, stubborn_router, write_only
from waiting import eventually

from isotherm import contract, tekton
from isotherm.deploy import guard, routes, shifts

ONE, TWO = 0.0, 1.0


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, mlflow_url: str) -> Iterator[Target]:
    """Version 1 live on blue, version 2 ready on green, held by run-2."""
    with started(tmp_path_factory.mktemp("guarded"), mlflow_url) as found:
        found.deploy(found.register(ONE), "run-1")
        found.deploy(found.register(TWO), "run-2")
        yield found


@pytest.fixture
def on_blue(target: Target) -> Target:
    """Everything to blue, and no note of a former shift."""
    target.all_to_blue(target.models[ONE])
    return target


def watching(target: Target) -> guard.Guard:
    return guard.Guard(target.cluster, {target.model_name: SERVICES})


def left_pending(target: Target, weight: int) -> routes.Route:
    """The Route as a driver leaves it that dies right after its write."""
    shifter = target.shifter("green", target.models[TWO], "run-2", weight=weight)
    return write_only(shifter)


@pytest.mark.parametrize("weight", [1, 50, 100])
def test_a_shift_whose_driver_dies_is_taken_back_when_it_expires(on_blue: Target, weight: int) -> None:
    written, looks = left_pending(on_blue, weight), watching(on_blue)
    now = tekton.utcnow()
    assert looks.look(now) == []
    assert on_blue.route().resource_version == written.resource_version
    assert looks.look(now + timedelta(seconds=61)) == [on_blue.model_name]
    after = on_blue.route()
    assert dict(after.weights) == {"blue": 100, "green": 0}
    assert (after.holder, after.shifting, after.token) == (shifts.GUARD, False, written.token + 1)
    assert after.annotations[contract.ANNOTATION_LIVE_DIGEST] == on_blue.models[ONE].digest
    assert "run-2" in after.annotations[contract.ANNOTATION_SHIFT_ENDED]
    assert looks.look(now + timedelta(days=1)) == []
    with pytest.raises(tekton.Refused, match="taken back"):
        on_blue.shifter("previous", None, "rollback-1").shift()
    # Somebody who wants that model may still ask for it.
    assert on_blue.shifter("green", on_blue.models[TWO], "run-2").shift()["outcome"] == "shifted"
    assert contract.ANNOTATION_REJECTED_DIGEST not in on_blue.route().annotations


def test_while_a_shift_is_pending_nobody_rewrites_the_colour_it_came_from(on_blue: Target) -> None:
    left_pending(on_blue, 100)
    with pytest.raises(tekton.Refused, match="being shifted"):
        on_blue.deploy(on_blue.models[TWO], "run-3", dry_run=True)
    assert on_blue.shifter("previous", None, "rollback-2").shift()["after"] == {"blue": 100, "green": 0}


def test_the_same_run_goes_on_with_what_it_left_pending(on_blue: Target) -> None:
    left_pending(on_blue, 100)
    report = on_blue.shifter("green", on_blue.models[TWO], "run-2").shift()
    assert (report["outcome"], report["after"]) == ("unchanged", {"blue": 0, "green": 100})
    assert not on_blue.route().shifting


def test_weights_that_a_person_sets_meanwhile_are_left_alone(on_blue: Target) -> None:
    left_pending(on_blue, 50)
    by_hand = {"to": {"kind": "Service", "name": "blue", "weight": 90},
               "alternateBackends": [{"kind": "Service", "name": "green", "weight": 10}]}  # fmt: skip
    on_blue.write_route(spec=by_hand)
    assert watching(on_blue).look(tekton.utcnow() + timedelta(days=1)) == []
    assert dict(on_blue.route().weights) == {"blue": 90, "green": 10}


def test_a_driver_that_lives_keeps_its_shift_from_expiring(on_blue: Target) -> None:
    """The data plane takes longer than the expiry to show the shift; a guard that looks all the while does nothing."""
    old, new = on_blue.models[ONE].digest, on_blue.models[TWO].digest
    found: list[dict[str, Any]] = []
    with stubborn_router(new, before=[old] * 24) as url:  # four answers a second until the new model's
        shifter = on_blue.shifter("green", on_blue.models[TWO], "run-2", router_url=url, expiry_seconds=2)
        thread = threading.Thread(target=lambda: found.append(shifter.shift()))
        thread.start()
        looks = watching(on_blue)
        while thread.is_alive():
            assert looks.look(tekton.utcnow()) == []
            time.sleep(0.2)
    assert (found[0]["outcome"], found[0]["after"]) == ("shifted", {"blue": 0, "green": 100})


def test_a_driver_that_was_stopped_too_long_finds_its_shift_taken_back_and_leaves_it(on_blue: Target) -> None:
    with stubborn_router(on_blue.models[ONE].digest) as url:
        shifter = on_blue.shifter("green", on_blue.models[TWO], "run-2", router_url=url, expiry_seconds=1.5)
        found: list[dict[str, Any]] = []
        thread = threading.Thread(target=lambda: found.append(shifter.shift()))
        thread.start()
        eventually(lambda: on_blue.route().shifting, 10)
        assert watching(on_blue).look(tekton.utcnow() + timedelta(minutes=1)) == [on_blue.model_name]
        thread.join(30)
    assert (found[0]["outcome"], found[0]["restored"]) == ("failed", False)
    assert "the guard set blue=100 green=0" in found[0]["problem"]
    assert dict(on_blue.route().weights) == {"blue": 100, "green": 0}


def test_the_program_guards_until_it_is_told_to_end(on_blue: Target, tmp_path: Path) -> None:
    shifter = on_blue.shifter("green", on_blue.models[TWO], "run-2", expiry_seconds=1)
    write_only(shifter)
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(tmp_path), "POLL_SECONDS": "0.2",
        "KUBECONFIG": str(on_blue.local.kubeconfig(on_blue.namespace)), "GUARDED_X": f"{on_blue.model_name}=blue,green",
    }  # fmt: skip
    command = [str(OPS_PYTHON), "-m", "isotherm.deploy.guard"]
    log = tmp_path / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=stream, stderr=stream)
        try:
            eventually(lambda: on_blue.route().holder == shifts.GUARD, 30)
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
    assert "now blue=100 green=0" in log.read_text()
