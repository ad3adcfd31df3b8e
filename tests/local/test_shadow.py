"""Replaying requests to a model without traffic, on the local target: real predictors, real answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from deploy_target import CLAIM, Target, started
from waiting import eventually

from isotherm import contract, tekton
from isotherm.deploy import render, shadow
from isotherm_local import pods

ONE, NEAR, FAR, HOLED = 0.0, 0.01, 1.0, 0.02


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, mlflow_url: str) -> Iterator[Target]:
    """Version 1 live on blue."""
    with started(tmp_path_factory.mktemp("shadow"), mlflow_url) as found:
        found.deploy(found.register(ONE), "run-1", size=render.Size(log_claim=CLAIM))
        for shift in (NEAR, FAR):
            found.register(shift)
        found.register(HOLED, hole=True)
        yield found


def replayed(target: Target, model: float, folder: Path | None = None, **changes: Any) -> dict[str, Any]:
    """Deploy a model on green and replay."""
    target.deploy(target.models[model], f"run-{model}")
    before = target.everything()
    values: dict[str, Any] = {
        "route": target.model_name, "service_blue": "blue", "service_green": "green", "colour": "green",
        "model_digest": target.models[model].digest, "replay_requests": 500, "max_disagreement": 0.1,
        "max_error_rate": 0.01, "max_ratio": 5.0, "latency_seconds": 5.0,
    }  # fmt: skip
    try:
        return shadow.replay(SimpleNamespace(**(values | changes)), target.cluster, folder)
    finally:
        assert target.everything() == before  # whatever comes of it, nothing was changed


def prediction_log(folder: Path, points: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({"timestamp": "2026-01-01T00:00:00Z", "version": "1.1.0", "u": 1.0, **point}) for point in points
    ]
    (folder / "predictions-1.jsonl").write_text("\n".join([*lines[:1], "torn {", *lines[1:]]) + "\n")
    return folder


def test_a_model_that_agrees_passes_on_the_domain_s_points(target: Target) -> None:
    report = replayed(target, NEAR)
    assert (report["outcome"], report["verdict"], report["requests"]) == ("pass", "PROMOTE", 500), report
    # u is shifted by 0.01; the spread of the live temperatures 2x + 3y + 4t over [0, 1]^2 x [0, 2] is 2.53.
    assert report["disagreement"] == pytest.approx(0.01 / 2.53, rel=0.02)
    assert report["counts"]["residual"] == [[0, 500], [0, 500]]


def test_a_model_that_says_something_else_fails_though_each_answer_is_sound(target: Target) -> None:
    report = replayed(target, FAR)
    assert (report["outcome"], report["verdict"]) == ("fail", "ROLLBACK")
    assert report["reason"] == "disagreement is worse: canary 500/500, stable 0/500"


def test_a_model_that_fails_where_clients_ask_is_found_by_their_requests_alone(target: Target, tmp_path: Path) -> None:
    points = [{"x": 0.0 if n % 4 == 0 else 0.5, "y": n / 400, "t": 0.5} for n in range(400)]
    report = replayed(target, HOLED, prediction_log(tmp_path / "log", points))
    assert (report["outcome"], report["source"], report["requests"]) == ("fail", "the prediction log", 400)
    assert report["counts"]["errors"] == [[100, 400], [0, 400]]
    assert replayed(target, HOLED)["outcome"] == "pass"


def test_requests_outside_the_candidate_s_domain_count_against_it(target: Target, tmp_path: Path) -> None:
    points = [{"x": 0.5, "y": 0.5, "t": 3.0 if n % 10 == 0 else 1.0} for n in range(400)]
    report = replayed(target, NEAR, prediction_log(tmp_path / "log", points))
    assert (report["outcome"], report["counts"]["out-of-bounds"][0]) == ("fail", [40, 400])


def test_what_clients_asked_is_collected_on_a_volume_and_asked_again(target: Target) -> None:
    """By blue's predictor, deployed with the claim; what this project's own programs ask of it is not among it."""
    folder = pods.claim_folder(target.local.state, target.namespace, CLAIM) / "predictions" / target.model_name
    points = [(0.1 + 0.8 * n / 300, 0.5, 1.0) for n in range(300)]
    with httpx.Client(headers={"Host": target.route().host}, trust_env=False, timeout=10) as client:
        for x, y, t in points:
            answer = client.get(f"{target.router_url}/predict-temperature", params={"x": x, "y": y, "t": t})
            answer.raise_for_status()
    eventually(lambda: len(list(shadow.logged(folder))) == len(points), 10)
    assert {(point["x"], point["y"], point["t"]) for point in shadow.logged(folder)} == set(points)
    report = replayed(target, NEAR, folder)
    assert (report["outcome"], report["source"], report["requests"]) == ("pass", "the prediction log", 300)


def test_too_few_requests_are_no_pass(target: Target) -> None:
    report = replayed(target, NEAR, replay_requests=20)
    assert (report["outcome"], report["verdict"]) == ("fail", "HOLD")


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"colour": "blue"}, tekton.Refused, "has traffic already"),
        ({"colour": "red"}, tekton.BadInput, "param colour"),
        ({"model_digest": "sha256:" + "0" * 64}, tekton.Refused, "holds model"),
        ({"max_disagreement": 0.0}, tekton.BadInput, "max-disagreement"),
        ({"max_ratio": 1.0}, tekton.BadInput, "max-ratio"),
    ],
)
def test_what_cannot_be_replayed_is_refused(target: Target, changes, error, reason: str) -> None:
    with pytest.raises(error, match=reason):
        replayed(target, NEAR, **changes)


def test_a_folder_without_a_log_is_refused(target: Target, tmp_path: Path) -> None:
    with pytest.raises(tekton.BadInput, match="no prediction log"):
        replayed(target, NEAR, tmp_path)


@pytest.mark.parametrize(
    ("source", "reason"), [("logs", "param replay-source is 'logs'"), ("log", "workspace requests is not bound")]
)
def test_a_source_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, source: str, reason: str) -> None:
    monkeypatch.delenv("REQUESTS_DIR", raising=False)
    with pytest.raises(tekton.BadInput, match=reason):
        shadow._requests(source)


def test_the_program_leaves_report_and_results(target: Target, tmp_path: Path) -> None:
    target.deploy(target.models[NEAR], "run-program")
    done, results = target.run_program(
        "isotherm.deploy.shadow", COLOUR="green", MODEL_DIGEST=target.models[NEAR].digest, REPLAY_REQUESTS="300",
        MAX_DISAGREEMENT="0.1", MAX_ERROR_RATE="0.01", MAX_RATIO="5", LATENCY_SECONDS="5", REPLAY_SOURCE="domain",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (results["outcome"], results["reason"]) == ("pass", "every required metric is fine")
    report = json.loads((target.reports / contract.REPORT_SHADOW).read_text())
    assert report["disagreement"] == pytest.approx(float(results["disagreement"]))
