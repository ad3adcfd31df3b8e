"""Deployment and traffic on the local target: embedded API, HAProxy, predictors from the locked environment, MLflow."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from deploy_target import CLAIM, IMAGE, SERVICES, Model, Target, started, stubborn_router, write_only

from isotherm import contract, kube, tekton
from isotherm.deploy import readiness, routes, traffic
from isotherm.deploy import weights as router
from isotherm_local.ports import free_port

ONE, TWO = 0.0, 1.0
RISING = {contract.ANNOTATION_SHIFT_TOKEN, contract.ANNOTATION_SHIFT_WEIGHTS, contract.ANNOTATION_REJECTED_DIGEST}
DEPLOY, SHIFT = "isotherm.deploy.deploy", "isotherm.deploy.shift"


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, mlflow_url: str) -> Iterator[Target]:
    """A namespace where version 1 serves on blue (its first deployment ran as a program) and version 2 is on green."""
    with started(tmp_path_factory.mktemp("target"), mlflow_url) as found:
        first = found.register(ONE)
        done, results = found.run_program(DEPLOY, **deploy_inputs(found, first))
        assert done.returncode == 0, done.stdout + done.stderr
        assert results == {
            "colour": "blue", "model_digest": first.digest, "route_created": "true",
            "inference_service": f"{found.model_name}-blue",
        }  # fmt: skip
        found.deploy(found.register(TWO), "run-2")
        yield found


@pytest.fixture
def on_blue(target: Target) -> Target:
    """The Route as version 1's deployment left it: everything to blue, no shift before; run-2 holds green."""
    notes = {
        contract.ANNOTATION_SHIFT_HOLDER: "run-1",
        contract.ANNOTATION_LIVE_DIGEST: target.models[ONE].digest,
        contract.ANNOTATION_PREVIOUS: None,
        contract.ANNOTATION_PREVIOUS_DIGEST: None,
        contract.ANNOTATION_REJECTED_DIGEST: None,
        contract.ANNOTATION_SHIFT_EXPIRES: None,
        contract.ANNOTATION_SHIFT_WEIGHTS: None,
    }
    target.write_route(metadata={"annotations": notes}, **routes.backends({"blue": 100, "green": 0}, SERVICES))
    green = target.stored(kube.INFERENCE_SERVICE, f"{target.model_name}-green")["metadata"]["annotations"]
    if green[contract.ANNOTATION_CLAIMED_BY] != "run-2":
        target.deploy(target.models[TWO], "run-2")
    return target


def deploy_inputs(target: Target, model: Model) -> dict[str, str]:
    return {
        "MODEL_NAME": target.model_name, "MODEL_VERSION": model.version, "MODEL_DIGEST": model.digest,
        "MODEL_STORE": f"pvc://{CLAIM}/model-store", "PREDICTOR_IMAGE": IMAGE, "ROUTE_HOST": "",
        "TLS_TERMINATION": "none", "PIPELINE_RUN_UID": "run-1", "READY_TIMEOUT_SECONDS": "60",
        "ALLOW_SOURCE_IMAGE": "false", "DRY_RUN": "false",
    }  # fmt: skip


def shift_inputs(colour: str, model: Model | None, uid: str) -> dict[str, str]:
    return {
        "COLOUR": colour, "MODEL_DIGEST": model.digest if model else "",
        "MODEL_VERSION": model.version if model else "",
        "WEIGHT": "100", "VERIFY_REQUESTS": "50", "VERIFY_TIMEOUT_SECONDS": "20",
        "EXPIRY_SECONDS": "60", "PIPELINE_RUN_UID": uid, "STEP_WEIGHTS": "", "INTERVAL_SECONDS": "5",
        "BAKE_SECONDS": "60", "HOLD_SECONDS": "300", "MAX_ERROR_RATE": "0.01", "MAX_RATIO": "5",
        "LATENCY_SECONDS": "0.25", "PROBES_PER_SECOND": "5", "PROMETHEUS_URL": "",
    }  # fmt: skip


def test_a_first_deployment_leaves_a_stored_model_a_claimed_service_and_a_route(target: Target) -> None:
    model, name = target.models[ONE], target.model_name
    report = json.loads((target.reports / contract.REPORT_DEPLOYMENT).read_text())
    assert report["model_location"] == f"pvc://{CLAIM}/model-store/{name}/{model.digest.removeprefix('sha256:')}"
    assert report["smoke"] == {"points": 8, "endpoints": 1, "max_abs_difference": report["smoke"]["max_abs_difference"]}
    assert (report["outcome"], report["dry_run"], report["smoke"]["max_abs_difference"] < 1e-9) == (
        "created",
        False,
        True,
    )
    notes = target.stored(kube.INFERENCE_SERVICE, f"{name}-blue")["metadata"]["annotations"]
    assert notes[contract.ANNOTATION_CLAIMED_BY] == "run-1"
    assert notes[contract.ANNOTATION_MODEL_VERSION] == contract.semver(model.version)
    spec = target.stored(kube.ROUTE, name)["spec"]
    assert spec["to"] == {"kind": "Service", "name": "blue", "weight": 100}
    assert spec["alternateBackends"] == [{"kind": "Service", "name": "green", "weight": 0}]
    assert target.route().annotations[contract.ANNOTATION_BALANCE] == "roundrobin"


def test_shift_and_rollback_move_every_answer_and_say_so(on_blue: Target) -> None:
    one, two = on_blue.models[ONE], on_blue.models[TWO]
    done, results = on_blue.run_program(SHIFT, **shift_inputs("green", two, "run-2"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert results == {
        "outcome": "shifted", "route_before": "blue=100 green=0", "route_after": "blue=0 green=100",
        "observed_share": "1.0000", "live_colour": "green", "live_digest": two.digest, "live_version": two.version,
        "canary_verdict": "",
    }  # fmt: skip
    report = json.loads((on_blue.reports / contract.REPORT_SHIFT).read_text())
    assert (report["observed"], report["restored"]) == ({"green": 1.0, "n": 50}, False)
    route = on_blue.route()
    assert route.annotations[contract.ANNOTATION_LIVE_DIGEST] == two.digest
    assert route.annotations[contract.ANNOTATION_PREVIOUS_DIGEST] == one.digest
    assert (route.holder, route.annotations[contract.ANNOTATION_PREVIOUS]) == ("run-2", "blue")

    repeated = on_blue.shifter("green", two, "run-2").shift()
    assert (repeated["outcome"], on_blue.route().resource_version) == ("unchanged", route.resource_version)

    token = route.token
    done, results = on_blue.run_program(SHIFT, **shift_inputs("previous", None, "rollback-1"), MLFLOW_URI="")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (results["live_colour"], results["live_digest"], results["observed_share"]) == ("blue", one.digest, "1.0000")
    assert on_blue.route().token == token + 1
    again = on_blue.shifter("previous", None, "rollback-1").shift()
    assert (again["outcome"], again["live_colour"]) == ("unchanged", "blue")


def test_a_split_is_measured_and_a_rollback_ends_it(on_blue: Target) -> None:
    two = on_blue.models[TWO]
    report = on_blue.shifter("green", two, "run-2", weight=30, verify_requests=200).shift()
    assert (report["outcome"], report["after"], report["live_colour"]) == ("shifted", {"blue": 70, "green": 30}, "blue")
    # What the verification itself accepts: three standard deviations of the share that the router can give, 29.86 %.
    assert abs(report["observed"]["green"] - 0.2986) <= router.tolerance(0.2986, 200)
    with pytest.raises(tekton.Refused, match="being shifted"):
        on_blue.shifter("green", two, "run-3").shift()
    with pytest.raises(tekton.Refused, match="being shifted"):
        on_blue.deploy(on_blue.models[ONE], "run-3", dry_run=True)
    report = on_blue.shifter("previous", None, "rollback-2").shift()
    assert (report["after"], report["observed"]["blue"]) == ({"blue": 100, "green": 0}, 1.0)


@pytest.mark.parametrize(("status", "reason"), [(200, "^blue gave 1.0000"), (503, "errors")])
def test_what_the_data_plane_does_not_confirm_is_taken_back(on_blue: Target, status: int, reason: str) -> None:
    before = on_blue.route()
    with stubborn_router(on_blue.models[ONE].digest, status) as url:
        report = on_blue.shifter(
            "green", on_blue.models[TWO], "run-2", router_url=url, verify_timeout_seconds=0.5
        ).shift()
    assert (report["outcome"], report["restored"], report["after"]) == ("failed", True, {"blue": 100, "green": 0})
    assert re.search(reason, report["problem"])
    after = on_blue.route()
    assert dict(after.weights) == {"blue": 100, "green": 0}
    assert after.token == before.token + 2
    kept = {key: after.annotations.get(key) for key in before.annotations if key not in RISING}
    assert kept == {key: value for key, value in before.annotations.items() if key in kept}
    assert after.annotations[contract.ANNOTATION_REJECTED_DIGEST] == on_blue.models[TWO].digest
    with pytest.raises(tekton.Refused, match="taken back"):
        on_blue.shifter("previous", None, "rollback-3").shift()


def test_a_router_that_has_just_started_is_waited_for(on_blue: Target) -> None:
    """Refused connections before the write, then errors that no model signed: neither is the model's."""
    port = free_port()
    two = on_blue.models[TWO]
    found: list[dict[str, Any]] = []
    shifter = on_blue.shifter("green", two, "run-2", router_url=f"http://127.0.0.1:{port}", verify_timeout_seconds=20)
    shift = threading.Thread(target=lambda: found.append(shifter.shift()))
    shift.start()
    time.sleep(1)
    with stubborn_router(two.digest, before=[on_blue.models[ONE].digest, "", "", ""], port=port):
        shift.join(30)
    assert (found[0]["outcome"], found[0]["after"]) == ("shifted", {"blue": 0, "green": 100})


def test_a_router_that_goes_on_failing_is_waited_for_only_so_long(
    on_blue: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic, "ROUTER_GRACE_SECONDS", 1.0)
    began = time.monotonic()
    with stubborn_router(on_blue.models[ONE].digest, before=[on_blue.models[ONE].digest, *[""] * 100]) as url:
        report = on_blue.shifter(
            "green", on_blue.models[TWO], "run-2", router_url=url, verify_timeout_seconds=20
        ).shift()
    assert (report["restored"], report["after"]) == (True, {"blue": 100, "green": 0})
    assert "errors (503 x1)" in report["problem"]
    assert time.monotonic() - began < 15


def test_a_rollback_stays_though_the_data_plane_does_not_confirm_it(on_blue: Target) -> None:
    on_blue.shifter("green", on_blue.models[TWO], "run-2").shift()
    with stubborn_router(on_blue.models[TWO].digest) as url:
        report = on_blue.shifter("previous", None, "rollback-3", router_url=url, verify_timeout_seconds=0.5).shift()
    assert (report["outcome"], report["restored"], report["after"]) == ("failed", False, {"blue": 100, "green": 0})


def test_a_human_between_read_and_write_is_noticed_and_wins(on_blue: Target) -> None:
    shifter = on_blue.shifter("green", on_blue.models[TWO], "run-2")
    planned = shifter.check()
    on_blue.write_route(**routes.backends({"blue": 50, "green": 50}, SERVICES))
    with pytest.raises(tekton.Refused, match="blue=50 green=50"):
        write_only(shifter, planned)
    assert dict(on_blue.route().weights) == {"blue": 50, "green": 50}


def test_a_change_beside_the_weights_does_not_stop_a_shift(on_blue: Target) -> None:
    shifter = on_blue.shifter("green", on_blue.models[TWO], "run-2")
    planned = shifter.check()
    on_blue.write_route(metadata={"labels": {"touched": "yes"}})
    assert dict(write_only(shifter, planned).weights) == {"blue": 0, "green": 100}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_digest": "0" * 64}, "holds model"),
        ({"model_version": "99"}, "not registry version 99"),
        ({"run_uid": "run-9"}, "claimed by PipelineRun run-2"),
    ],
)
def test_a_shift_to_something_else_is_refused_before_any_write(on_blue: Target, changes, reason: str) -> None:
    before = on_blue.route().resource_version
    shifter = on_blue.shifter("green", on_blue.models[TWO], "run-2", **changes)
    with pytest.raises(tekton.Refused, match=reason):
        shifter.shift()
    assert on_blue.route().resource_version == before


def test_a_rollback_to_a_colour_that_holds_a_newer_model_is_refused(on_blue: Target) -> None:
    notes = {contract.ANNOTATION_PREVIOUS: "green", contract.ANNOTATION_PREVIOUS_DIGEST: "f" * 64}
    on_blue.write_route(metadata={"annotations": notes})
    with pytest.raises(tekton.Refused, match="which was live before"):
        on_blue.shifter("previous", None, "rollback-4").shift()


def test_a_dry_run_prints_the_plan_and_changes_nothing(on_blue: Target, capsys: pytest.CaptureFixture[str]) -> None:
    before, stored = on_blue.everything(), sorted(on_blue.store.rglob("*"))
    report = on_blue.deploy(on_blue.register(2.0), "run-4", dry_run=True)
    assert on_blue.everything() == before
    assert sorted(on_blue.store.rglob("*")) == stored
    assert [(change["action"], change["kind"]) for change in report["plan"]] == [
        ("keep", "ServingRuntime"), ("patch", "InferenceService"), ("keep", "Service"), ("keep", "Service"),
    ]  # fmt: skip
    printed = capsys.readouterr().out
    assert "-    isotherm.dev/claimed-by: run-2\n  +    isotherm.dev/claimed-by: run-4" in printed


def test_deploying_what_is_live_changes_nothing_and_checks_it_again(on_blue: Target) -> None:
    before = on_blue.everything()
    report = on_blue.deploy(on_blue.models[ONE], "run-5")
    assert (report["outcome"], report["colour"], report["smoke"]["points"]) == ("unchanged", "blue", 8)
    assert on_blue.everything() == before


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"model_digest": "0" * 64}, tekton.Refused, "has digest"),
        ({"model_version": "77"}, tekton.BadInput, "no version 77"),
        ({"predictor_image": "isotherm/pinn-api:9"}, tekton.Refused, "exists with another spec"),
        ({"services": {"blue": "green", "green": "blue"}}, tekton.Refused, "selects"),
    ],
)
def test_a_deployment_that_does_not_fit_is_refused_before_any_write(on_blue: Target, changes, error, reason) -> None:
    before = on_blue.everything()
    with pytest.raises(error, match=reason):
        on_blue.deploy(on_blue.models[TWO], "run-6", **changes)
    assert on_blue.everything() == before


def test_lineage_and_a_model_from_a_checkout(on_blue: Target) -> None:
    lost = on_blue.register(3.0, **{contract.TAG_GIT_SHA: ""})
    with pytest.raises(tekton.Refused, match="lacks the lineage tags git_sha"):
        on_blue.deploy(lost, "run-7", dry_run=True)
    source = on_blue.register(4.0, **{contract.TAG_IMAGE_DIGEST: "source-sha256:" + "0" * 64})
    with pytest.raises(tekton.Refused, match="from a checkout"):
        on_blue.deploy(source, "run-7", dry_run=True)
    assert on_blue.deploy(source, "run-7", dry_run=True, allow_source_image=True)["colour"] == "green"


def test_objects_of_another_owner_are_left_alone(on_blue: Target) -> None:
    owner = [{"apiVersion": "v1", "kind": "Operator", "name": "odh", "uid": "1", "controller": True}]
    on_blue.write_route(metadata={"ownerReferences": owner})
    try:
        with pytest.raises(tekton.Refused, match="belongs to Operator odh"):
            on_blue.shifter("green", on_blue.models[TWO], "run-2").shift()
        with pytest.raises(tekton.Refused, match="belongs to Operator odh"):
            on_blue.deploy(on_blue.models[TWO], "run-8")
    finally:
        on_blue.write_route(metadata={"ownerReferences": None})


def test_waiting_names_what_is_missing(on_blue: Target) -> None:
    said: list[str] = []
    with pytest.raises(tekton.Unavailable, match="pod template carries digest"):
        readiness.wait(on_blue.cluster, f"{on_blue.model_name}-green", "green", "0" * 64, "run-2", 0.1, said.append)
    assert said


def test_a_run_that_starts_again_claims_what_an_earlier_one_left(on_blue: Target) -> None:
    two = on_blue.models[TWO]
    report = on_blue.deploy(two, "run-10")
    assert (report["outcome"], report["colour"]) == ("reused", "green")
    with pytest.raises(tekton.Refused, match="claimed by PipelineRun run-10"):
        on_blue.shifter("green", two, "run-2").shift()
    assert on_blue.shifter("green", two, "run-10").shift()["outcome"] == "shifted"


def test_of_two_first_deployments_the_one_that_lost_its_colour_gives_way_and_then_takes_the_other(
    tmp_path_factory: pytest.TempPathFactory, mlflow_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slower one's endpoints are kept unready until the end, so that only the Route can end its wait."""
    with started(tmp_path_factory.mktemp("rivals"), mlflow_url) as target, ThreadPoolExecutor(1) as beside:
        slow, fast = target.register(ONE), target.register(TWO)
        look = readiness.unready_endpoints

        def kept(found: Any, digest: str, least: int) -> str:
            return "kept" if digest == slow.digest else look(found, digest, least)

        monkeypatch.setattr(readiness, "unready_endpoints", kept)
        waiting = beside.submit(target.deploy, slow, "run-1")
        blue = f"{target.model_name}-blue"
        while target.cluster.get(kube.INFERENCE_SERVICE, blue) is None:
            assert not waiting.done(), waiting.exception()
            time.sleep(0.02)
        report = target.deploy(fast, "run-2")
        assert (report["colour"], report["route_created"]) == ("blue", True)
        with pytest.raises(kube.Conflict, match="PipelineRun run-2 took blue"):
            waiting.result()
        monkeypatch.undo()
        again = target.deploy(slow, "run-1")
        assert (again["colour"], again["route_created"]) == ("green", False)
        assert target.route().weights == {"blue": 100, "green": 0}


def test_programs_end_with_one_line_that_says_why(on_blue: Target) -> None:
    done, results = on_blue.run_program(SHIFT, **shift_inputs("green", Model("0" * 64, ""), "run-2"))
    assert (done.returncode, set(results.values())) == (3, {""})
    assert done.stderr.splitlines()[-1].startswith("error: green holds model")
    inputs = deploy_inputs(on_blue, on_blue.models[ONE]) | {"MLFLOW_URI": "http://127.0.0.1:9"}
    done, _ = on_blue.run_program(DEPLOY, **inputs, MLFLOW_DEADLINE_SECONDS="1")
    assert (done.returncode, done.stderr.splitlines()[-1][:16]) == (4, "error: MLflow at")
    done, _ = on_blue.run_program(SHIFT, **shift_inputs("green", on_blue.models[TWO], "run-2"), KUBECONFIG="absent")
    assert done.returncode == 2
    assert "KUBECONFIG" in done.stderr.splitlines()[-1]
    report = json.loads((on_blue.reports / contract.REPORT_SHIFT).read_text())
    assert f"error: {report['error']}" == done.stderr.splitlines()[-1]
