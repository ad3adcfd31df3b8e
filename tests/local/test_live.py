"""`isotherm status` and `isotherm rollback` against the Kubernetes API of the local target."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
from local_target import INFERENCE_SERVICES, ROUTES, Clients, clients, cluster, route

from isotherm import contract, tekton
from isotherm_local import cli, live
from isotherm_local.cluster import Cluster

__all__ = ["clients", "cluster"]

MODEL = {"modelFormat": {"name": "isotherm-pinn"}, "runtime": "not-installed", "storageUri": "pvc://claim/model"}
SINCE = "2026-01-02T03:04:05Z"


def serve(clients: Clients, weights: dict[str, int]) -> None:
    """Make a Route `plate` with two colours, as kserve-deploy and route-shift leave it."""
    for number, colour in enumerate(contract.COLOURS, start=1):
        labels = {contract.LABEL_MODEL: "plate", contract.LABEL_COLOUR: colour}
        notes = {
            contract.ANNOTATION_MODEL_VERSION: f"1.{number}.0",
            contract.ANNOTATION_MODEL_DIGEST: str(number) * 64,
            contract.ANNOTATION_DATA_VERSION: f"dvc-{number:06}",
        }
        metadata = {"name": f"plate-{colour}", "labels": labels, "annotations": notes}
        clients.create(INFERENCE_SERVICES, {"metadata": metadata, "spec": {"predictor": {"model": MODEL}}})
        body: Any = {
            "metadata": {"name": f"plate-{colour}-svc"},
            "spec": {"selector": {live._SELECTOR: f"plate-{colour}"}, "ports": [{"name": "http", "port": 80}]},
        }
        clients.core.create_namespaced_service(clients.namespace, body)
    named = {f"plate-{colour}-svc": weight for colour, weight in weights.items()}
    clients.create(ROUTES, route("plate", named, annotations={contract.ANNOTATION_LIVE_SINCE: SINCE}))


def test_status_names_the_live_colour_its_version_data_and_since_when(
    clients: Clients, cluster: Cluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(clients, {"blue": 0, "green": 100})
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(clients.namespace)))
    assert cli.main(["status", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    expected = {"route": "plate", "live_colour": "green", "model_version": "1.2.0", "data_version": "dvc-000002"}
    assert {key: found[key] for key in expected} == expected
    assert (found["live_since"], found["model_digest"]) == (SINCE, "2" * 64)
    assert [backend["share"] for backend in found["backends"]] == [0.0, 1.0]
    assert cli.main(["status"]) == 0
    assert f"live     green since {SINCE}  (blue 0%, green 100%)" in capsys.readouterr().out


def test_status_says_that_a_shift_is_in_progress(clients: Clients) -> None:
    serve(clients, {"blue": 90, "green": 10})
    (found,) = live.read_status(clients.api, clients.namespace)
    assert (found["shifting"], found["live_colour"]) == (True, "")


def test_status_of_a_namespace_that_serves_nothing(
    clients: Clients, cluster: Cluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    assert cli.main(["status", "--state", str(cluster.state), "-n", clients.namespace]) == 0
    assert capsys.readouterr().out == f"no Route in namespace {clients.namespace} serves a model\n"


def test_without_any_api_status_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert cli.main(["status", "--state", str(tmp_path)]) == 4
    assert (
        "there is no kubeconfig and no local target; log in (oc login), or run isotherm up" in capsys.readouterr().err
    )


def test_an_api_that_does_not_answer_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config"
    file.write_text(json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "c", "users": [{"name": "u", "user": {}}],
        "clusters": [{"name": "k", "cluster": {"server": "http://127.0.0.1:1"}}],
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
    }))  # fmt: skip
    monkeypatch.setenv("KUBECONFIG", str(file))
    assert cli.main(["status", "--state", str(tmp_path)]) == 4
    error = capsys.readouterr().err.splitlines()
    assert error[-1].startswith("error: the Kubernetes API does not answer")


def test_a_rollback_needs_a_route(clients: Clients, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(clients.namespace)))
    options = argparse.Namespace(state=cluster.state, local=False, namespace="", model="nobody", route="", param=[])
    with pytest.raises(tekton.BadInput, match=f"namespace {clients.namespace} has no Route nobody with a model"):
        live.rollback(options)


def test_a_rollback_runs_the_pipeline_with_the_routes_own_services(
    clients: Clients, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(clients, {"blue": 0, "green": 100})
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(clients.namespace)))
    options = argparse.Namespace(state=cluster.state, local=False, namespace="", model="plate", route="", param=[])
    # No shift ever moved this Route, so the real pipeline must refuse; what it was asked is in its record.
    assert live.rollback(options) == 1
    (folder,) = (cluster.state / "namespaces" / clients.namespace / "runs").iterdir()
    asked = json.loads((folder / "run.json").read_text())
    expected = {
        "route": "plate",
        "model-name": "plate",
        "service-blue": "plate-blue-svc",
        "service-green": "plate-green-svc",
    }
    assert {key: asked["params"][key] for key in expected} == expected
    assert asked["params"]["router-url"] == cluster.endpoints.router_url
    assert asked["tasks"]["shift"]["state"] == "Failed"


def test_the_object_for_a_cluster_is_the_catalogs_own_example() -> None:
    body = live.rollback_run("plate", "plate", {"verify-requests": "5"})
    params = {item["name"]: item["value"] for item in body["spec"]["params"]}
    assert params | {"model-name": "plate", "route": "plate", "verify-requests": "5"} == params
    assert body["metadata"]["generateName"] == "rollback-"
    assert body["spec"]["pipelineRef"] == {"name": "rollback"}
