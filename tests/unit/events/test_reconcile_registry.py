"""Lost deployments, with a real MLflow server."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from events_api import EventsApi, events_api, template
from mlflow_server import log_model

from isotherm import contract, kube, tekton
from isotherm.events import admit, config, reconcile_registry
from isotherm.events.runs import Runs

__all__ = ["events_api"]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
_numbers = itertools.count(1)


class World:
    """A registered model with two versions, and its Route."""

    def __init__(self, api: EventsApi, url: str, folder: Path) -> None:
        from mlflow import MlflowClient

        number = next(_numbers)
        self.api, self.url, self.namespace, self.model = api, url, f"registry-{number}", f"{folder.name[-20:]}-m"
        self.model = "".join(c if c.isalnum() else "-" for c in self.model.lower()).strip("-")
        self.cluster, self.client, self.clock = api.cluster(self.namespace), MlflowClient(url, registry_uri=url), NOON
        self.digests = {"1": "1" * 64, "2": "2" * 64}
        self.client.create_registered_model(self.model)
        for digest in self.digests.values():
            uri, run_id = log_model(url, folder, digest)
            tags = {contract.TAG_MODEL_DIGEST: digest}
            self.client.create_model_version(self.model, uri, run_id, tags=tags, model_id=uri.removeprefix("models:/"))
        self.cluster.create(
            kube.TRIGGER_TEMPLATE, template("deploy", "registry", ["name", "model", "version", "alias"])
        )
        self.cluster.create(kube.ROUTE, {
            "apiVersion": "route.openshift.io/v1", "kind": "Route", "metadata": {"name": self.model},
            "spec": {"to": {"kind": "Service", "name": "blue", "weight": 100}},
        })  # fmt: skip

    def champion(self, version: str) -> None:
        self.client.set_registered_model_alias(self.model, "champion", version)

    def go_live(self, version: str) -> None:
        """What route-shift writes."""
        stored = self.cluster.get(kube.ROUTE, self.model)
        assert stored is not None
        notes = {
            contract.ANNOTATION_LIVE_DIGEST: self.digests[version],
            contract.ANNOTATION_LIVE_SINCE: tekton.rfc3339(self.clock),
        }
        change = {"metadata": {"annotations": notes}}
        self.cluster.patch(kube.ROUTE, self.model, change, stored["metadata"]["resourceVersion"])

    def reconcile(self, after_minutes: int = 60) -> list[str]:
        self.clock += timedelta(minutes=after_minutes)
        runs = Runs(self.cluster)
        models = [{"name": self.model, "route": self.model, "alias": "champion", "template": "deploy"}]
        source = config.Registry.model_validate({"mlflow-uri": self.url, "models": models})
        reconcile_registry.reconcile(runs, source, lambda: self.clock)
        return runs.created

    def deploy(self, name: str, version: str | None) -> None:
        """Let a run go to its end: admitted, live where it has a version."""
        run = self.api.runs(self.namespace)[name]["metadata"]
        request = admit.Request(run["annotations"][contract.ANNOTATION_EVENT_KEY], self.model, 0, name, run["uid"])
        admitted = admit.admit(self.cluster, request, now=lambda: self.clock).admitted
        self.clock += timedelta(minutes=5)
        if admitted and version:
            self.go_live(version)
        self.api.finish(name, "True" if version or not admitted else "False", self.namespace)


@pytest.fixture
def world(events_api: EventsApi, mlflow_url: str, tmp_path: Path) -> World:
    return World(events_api, mlflow_url, tmp_path)


def test_a_version_that_is_not_live_is_deployed_once(world: World) -> None:
    assert world.reconcile() == [], "there is no alias yet"
    world.champion("1")
    name = f"deploy-{world.model}-v1"
    assert world.reconcile() == [name]
    assert world.reconcile() == [], "it is at work"
    params: list[dict[str, Any]] = world.api.runs(world.namespace)[name]["spec"]["params"]
    assert {param["name"]: param["value"] for param in params} == {
        "name": name, "model": world.model, "version": "1", "alias": "champion"
    }  # fmt: skip
    world.deploy(name, "1")
    assert world.reconcile() == []


def test_a_version_that_was_live_before_gets_the_next_number(world: World) -> None:
    base = f"deploy-{world.model}"
    for version, name in (("1", "v1"), ("2", "v2"), ("1", "v1-2"), ("2", "v2-2"), ("1", "v1-3")):
        world.champion(version)
        assert world.reconcile() == [f"{base}-{name}"]
        world.deploy(f"{base}-{name}", version)
        assert world.reconcile() == []


def test_pruned_runs_do_not_free_their_names(world: World) -> None:
    base = f"deploy-{world.model}"
    for version in ("1", "2"):
        world.champion(version)
        assert world.reconcile() == [f"{base}-v{version}"]
        world.deploy(f"{base}-v{version}", version)
    world.api.prune(f"{base}-v1", world.namespace)
    world.champion("1")
    # The listener takes the old name, which is free again; admission no-ops that run, as its key is done.
    late = {"labels": {}, "annotations": {contract.ANNOTATION_EVENT_KEY: f"{base}-v1"}, "name": f"{base}-v1"}
    world.cluster.create(
        kube.PIPELINE_RUN, {"apiVersion": "tekton.dev/v1", "kind": "PipelineRun", "metadata": late, "spec": {}}
    )
    assert world.reconcile() == []
    world.deploy(f"{base}-v1", "1")
    assert world.reconcile() == [f"{base}-v1-2"]


def test_a_deployment_that_changed_nothing_is_not_repeated(world: World) -> None:
    world.champion("1")
    (name,) = world.reconcile()
    world.deploy(name, None)
    assert [world.reconcile() for _ in range(5)] == [[]] * 5
    world.go_live("2")
    assert world.reconcile() == [f"{name}-2"], "something else went live since: the event is a new one"


def test_what_changed_a_moment_ago_is_left_to_the_pipeline_at_work(world: World) -> None:
    world.champion("1")
    world.go_live("2")
    assert world.reconcile(after_minutes=10) == []
    world.champion("2")
    assert world.reconcile() == []


def test_a_version_without_digest_is_one_line(world: World) -> None:
    world.client.delete_model_version_tag(world.model, "1", contract.TAG_MODEL_DIGEST)
    world.champion("1")
    with pytest.raises(tekton.Refused, match="has no tag model_digest"):
        world.reconcile()
