"""Registration and promotion against a real MLflow server: one version per content, champion by comparison."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from events_api import EventsApi, events_api
from mlflow_server import free_port, log_model

from isotherm import contract, kube, tekton
from isotherm.registry import register, versions
from isotherm.registry.client import connect

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["events_api"]
ONE, TWO, THREE = "1" * 64, "2" * 64, "3" * 64


@pytest.fixture
def client(mlflow_url: str) -> MlflowClient:
    return connect(mlflow_url)


@pytest.fixture
def name() -> str:
    return f"model-{uuid4().hex[:8]}"


@pytest.fixture
def params(mlflow_url: str, tmp_path: Path, name: str) -> Callable[..., SimpleNamespace]:
    """Params of the Task for a freshly logged model with a digest."""

    def build(digest: str, alias: str = contract.ALIAS_CHALLENGER, **changes: Any) -> SimpleNamespace:
        uri, run_id = log_model(mlflow_url, tmp_path, digest)
        values = {
            "alias": alias, "model_name": name, "model_uri": uri, "model_digest": digest, "run_id": run_id,
            "expected_champion": "", "mlflow_uri": mlflow_url, "pipeline_run": "run-1",
        }  # fmt: skip
        return SimpleNamespace(**(values | changes))

    return build


@contextmanager
def at_once() -> Iterator[versions.Check]:
    """Nobody waits for anybody: what holds then holds also when the Lease does not help."""
    yield lambda: None


def registered(env: SimpleNamespace, credentials: Path | None, evaluation: Any) -> versions.Registered:
    return register.run(env, credentials, evaluation, at_once)


def all_versions(client: MlflowClient, name: str) -> list[Any]:
    return sorted(client.search_model_versions(f"name = '{name}'"), key=lambda version: int(version.version))


def test_a_version_carries_lineage_semver_stage_card_and_challenger(client, name, params) -> None:
    env = params(ONE)
    evaluation = {
        "verdict": "pass",
        "reason": "no-champion",
        "checks": [{"name": "pde_loss", "value": 2.5e-4, "limit": "< 0.001", "passed": True}],
    }
    done = registered(env, None, evaluation)
    version = client.get_model_version_by_alias(name, contract.ALIAS_CHALLENGER)
    assert (str(version.version), done.outcome, done.previous_champion) == ("1", versions.CREATED, "")
    run_tags = client.get_run(env.run_id).data.tags
    assert {tag: version.tags[tag] for tag in contract.LINEAGE_TAGS} == {
        tag: run_tags[tag] for tag in contract.LINEAGE_TAGS
    }
    assert version.tags[contract.TAG_SEMVER] == "1.1.0"
    assert version.tags[contract.TAG_STAGE] == "Staging"
    assert version.tags[contract.TAG_PIPELINE_RUN] == "run-1"
    assert version.source == env.model_uri
    assert version.run_id == env.run_id
    for text in (
        "**pass**",
        "< 0.001",
        "x -1 to 1",
        "| input | points | float64 | n, 3 |",
        "Intended use",
        "Limits",
        contract.EQUATION,
        env.run_id,
    ):
        assert text.replace("<", "\\<") in version.description or text in version.description


def test_one_digest_is_one_version_however_often_it_is_registered(client, name, params) -> None:
    first, retrained = params(ONE), params(ONE)
    outcomes = [registered(env, None, None).outcome for env in (first, first, retrained)]
    assert outcomes == [versions.CREATED, versions.REUSED, versions.REUSED]
    assert [str(version.version) for version in all_versions(client, name)] == ["1"]


def test_a_killed_registration_is_completed_by_the_next(client, name, params) -> None:
    env = params(ONE)
    client.create_registered_model(name)
    model_id = env.model_uri.removeprefix("models:/")
    client.create_model_version(name, env.model_uri, tags={contract.TAG_MODEL_DIGEST: ONE}, model_id=model_id)
    assert registered(env, None, None).outcome == versions.REUSED
    version = client.get_model_version_by_alias(name, contract.ALIAS_CHALLENGER)
    assert version.tags[contract.TAG_SEMVER] == "1.1.0"


def test_racing_registrations_leave_one_version(client, name, params) -> None:
    env = params(ONE)
    done: list[versions.Registered] = []
    threads = [threading.Thread(target=lambda: done.append(registered(env, None, None))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 4
    survivors = [str(version.version) for version in all_versions(client, name)]
    assert survivors == ["1"]
    assert {registered.version for registered in done} == {"1"}


def test_of_two_versions_with_one_digest_the_lowest_is_kept(client, name, params, capsys) -> None:
    env = params(ONE)
    model_id = env.model_uri.removeprefix("models:/")
    client.create_registered_model(name)
    for _ in range(3):
        client.create_model_version(name, env.model_uri, tags={contract.TAG_MODEL_DIGEST: ONE}, model_id=model_id)
    client.set_registered_model_alias(name, "kept", "2")
    assert registered(env, None, None).version == "1"
    assert [str(version.version) for version in all_versions(client, name)] == ["1", "2"], "an aliased one is not ours"
    assert "keeping 1" in capsys.readouterr().out


def test_an_answer_lost_after_create_does_not_create_again(client, name, params, monkeypatch) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    env, create, calls = params(ONE), MlflowClient.create_model_version, []

    def create_then_lose(self: MlflowClient, *args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        create(self, *args, **kwargs)
        raise MlflowException("API request to http://mlflow failed with exception: connection reset")

    monkeypatch.setattr(MlflowClient, "create_model_version", create_then_lose)
    assert registered(env, None, None).version == "1"
    assert len(calls) == 1
    assert len(all_versions(client, name)) == 1


def test_a_champion_registered_again_keeps_its_stage(client, name, params) -> None:
    env = params(ONE)
    registered(env, None, None)
    registered(params(ONE, contract.ALIAS_CHAMPION), None, None)
    registered(env, None, None)
    assert client.get_model_version(name, "1").tags[contract.TAG_STAGE] == "Production"


@pytest.mark.parametrize("tag", contract.LINEAGE_TAGS)
def test_a_model_without_a_lineage_tag_is_refused(client, name, params, mlflow_url, tmp_path, tag) -> None:
    uri, run_id = log_model(mlflow_url, tmp_path / tag, ONE, tags={tag: ""})
    with pytest.raises(tekton.Refused, match=tag):
        registered(params(ONE, model_uri=uri, run_id=run_id), None, None)
    assert all_versions(client, name) == []


def test_a_model_of_another_digest_is_refused(params, mlflow_url, tmp_path) -> None:
    with pytest.raises(tekton.Refused, match=r"tag says digest 111111111111, not 222222222222"):
        registered(params(ONE, model_digest=TWO), None, None)
    uri, run_id = log_model(mlflow_url, tmp_path / "forged", ONE, metadata={"model_digest": TWO})
    with pytest.raises(tekton.Refused, match=r"model.json says digest 222222222222"):
        registered(params(ONE, model_uri=uri, run_id=run_id), None, None)


@pytest.mark.parametrize(
    "signature", [None, {}, {"inputs": [], "outputs": []}, {"inputs": ["points"], "outputs": ["u"]}, "points"]
)
def test_a_model_without_a_signature_is_refused(params, mlflow_url, tmp_path, signature) -> None:
    uri, run_id = log_model(mlflow_url, tmp_path / "bare", ONE, metadata={"signature": signature})
    with pytest.raises(tekton.Refused, match=r"model.json of .* is not as it should be: signature"):
        registered(params(ONE, model_uri=uri, run_id=run_id), None, None)


def test_a_model_that_does_not_exist_or_is_of_another_run_is_refused(params) -> None:
    other = params(TWO)
    with pytest.raises(tekton.Refused, match="does not know"):
        registered(params(ONE, model_uri="models:/m-0000"), None, None)
    with pytest.raises(tekton.Refused, match="belongs to run"):
        registered(params(ONE, run_id=other.run_id), None, None)


@pytest.mark.parametrize(
    "change",
    [
        {"alias": "prod"},
        {"model_name": "a' OR name LIKE '%"},
        {"model_name": ""},
        {"model_digest": "1" * 63},
        {"model_uri": "runs:/0/model"},
    ],
)
def test_malformed_params_are_refused_by_name(params, change) -> None:
    with pytest.raises(tekton.BadInput, match=next(iter(change)).replace("_", "-")):
        registered(params(ONE, **change), None, None)


def test_promotion_moves_the_champion_only_from_the_one_it_was_judged_against(client, name, params) -> None:
    for digest in (ONE, TWO, THREE):
        registered(params(digest), None, None)

    def promote(digest: str, expected: str) -> versions.Registered:
        return registered(params(digest, contract.ALIAS_CHAMPION, expected_champion=expected), None, None)

    assert promote(ONE, "") == versions.Registered("1", versions.MOVED, "")
    assert promote(ONE, "") == versions.Registered("1", versions.UNCHANGED, "1")
    with pytest.raises(tekton.Refused, match=r"champion of .* is version 1, not nobody"):
        promote(TWO, "")
    assert promote(TWO, "1") == versions.Registered("2", versions.MOVED, "1")
    with pytest.raises(tekton.Refused, match="is version 2, not version 1"):
        promote(THREE, "1")
    assert promote(ONE, versions.ANY_CHAMPION) == versions.Registered("1", versions.MOVED, "2"), "a rollback"
    stages = [version.tags[contract.TAG_STAGE] for version in all_versions(client, name)]
    assert stages == ["Production", "Archived", "Staging"]
    assert versions.alias_version(client, name, contract.ALIAS_CHAMPION) == "1"


def test_an_unregistered_digest_cannot_be_promoted(params) -> None:
    with pytest.raises(tekton.Refused, match="no version of"):
        registered(params(ONE, contract.ALIAS_CHAMPION), None, None)


def step(env: SimpleNamespace, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the program as the Task does."""
    names = ("model_version", "semver", "model_digest", "outcome")
    environment = {**os.environ, **{name.upper(): value for name, value in vars(env).items()}}
    environment |= {"REPORTS_DIR": str(folder), "MLFLOW_CREDENTIALS_DIR": "", **variables}
    environment |= {f"RESULT_{result.upper()}": str(folder / result) for result in names}
    command = [sys.executable, "-m", "isotherm.registry.register"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_program_leaves_results_and_a_report(params, name, tmp_path, events_api: EventsApi) -> None:
    done = step(params(ONE), tmp_path, KUBECONFIG=events_api.environment()["KUBECONFIG"])
    assert done.returncode == 0, done.stderr
    lease = events_api.cluster().get(kube.LEASE, contract.registry_lease(name))
    assert (lease["spec"]["holderIdentity"], lease["spec"]["leaseTransitions"]) == ("", 1), "released"
    results = [(tmp_path / result).read_text() for result in ("model_version", "semver", "model_digest", "outcome")]
    assert results == ["1", "1.1.0", ONE, "created"]
    report = json.loads((tmp_path / contract.REPORT_REGISTRATION).read_text())
    expected = {
        "schema_version": 1,
        "model_name": name,
        "model_version": "1",
        "alias": "challenger",
        "outcome": "created",
    }
    assert expected.items() <= report.items()


def test_a_dead_server_is_one_line_and_exit_4(params, tmp_path) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    done = step(params(ONE, mlflow_uri=uri), tmp_path, MLFLOW_DEADLINE_SECONDS="2")
    assert done.returncode == tekton.Unavailable.exit_code
    assert done.stderr.startswith(f"error: MLflow at {uri} did not answer within 2 s")
    assert done.stderr.count("\n") == 1
    assert (tmp_path / "model_version").read_text() == "", "every result exists after a failure too"
