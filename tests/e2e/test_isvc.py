"""Driver isvc on KServe 0.20 itself: its webhook, its Deployments of predictor and canary, and their pods.

KServe alone does not split traffic, and Open Data Hub, whose controller follows `spec.canary` with a Route, is no part
of the lab: a thread here writes that Route by the same rules (`isotherm_local.canaries.exposed_route`). The cluster's
inferenceservice-config must keep annotation isotherm.dev/shift off the pods; the lab's does.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from functools import cached_property
from typing import Any

import pytest
import yaml
from lab.part import CHECKOUT
from waiting import beside, eventually

from e2e.cluster import Finished, Object
from e2e.conftest import OTHER, Catalog
from isotherm import contract, kube, tekton
from isotherm.deploy import guard, splits
from isotherm_local import canaries

NAME = "heat-isvc"
STABLE, CANARY = f"{NAME}-predictor", f"{NAME}-canary-predictor"
LABEL = f"serving.kserve.io/inferenceservice={NAME}"
STEPS = {
    "step-weights": "20", "interval-seconds": "2", "bake-seconds": "4", "hold-seconds": "120", "max-error-rate": "0.01",
    "latency-seconds": "5", "probes-per-second": "20", "expiry-seconds": "60",
}  # fmt: skip


class Service:
    """InferenceService NAME in the catalog's namespace, and two versions of a model for it."""

    def __init__(self, catalog: Catalog) -> None:
        from kubernetes import config

        self.catalog = catalog
        client = config.new_client_from_config(catalog.target.kubeconfig)
        self.cluster = kube.Cluster(client, catalog.namespace, deadline_seconds=20)
        by_digest = {version.tags["model_digest"]: version.version for version in catalog.versions(OTHER)}
        assert len(by_digest) >= 2, by_digest
        self.models = list(by_digest.items())[:2]  # digest and registry version

    def task(self, task: str, name: str, **params: str) -> Object:
        """Run one Task to its end and return the TaskRun."""
        self.start(task, name, **params)
        return self.catalog.completed("taskrun", name, 600)

    def start(self, task: str, name: str, **params: str) -> None:
        """Create a TaskRun."""
        claim = {"claimName": "isotherm"}
        workspaces = [{"name": "reports", "subPath": f"runs/{name}/reports", "persistentVolumeClaim": claim}]
        if task == "kserve-deploy":
            workspaces.append({"name": "model-store", "subPath": "model-store", "persistentVolumeClaim": claim})
        given = {"driver": "isvc", "route": NAME, **{key.replace("_", "-"): text for key, text in params.items()}}
        spec = {
            "taskRef": {"name": task},
            "serviceAccountName": task,
            "params": [{"name": key, "value": value} for key, value in given.items()],
            "workspaces": workspaces,
        }
        run = {"apiVersion": "tekton.dev/v1", "kind": "TaskRun", "metadata": {"name": name}, "spec": spec}
        self.catalog.kubectl("delete", "taskrun", name, "--ignore-not-found")
        self.catalog.kubectl("create", "-f", "-", stdin=yaml.safe_dump(run))

    def deploy(self, number: int, name: str) -> Object:
        """kserve-deploy of one of the two versions; its run is called as the TaskRun."""
        digest, version = self.models[number]
        return self.task(
            "kserve-deploy", name, model_name=OTHER, model_version=version, model_digest=digest,
            mlflow_uri=self.catalog.target.mlflow, model_store="pvc://isotherm/model-store",
            predictor_image="isotherm/pinn-api:0.1.0", predictor_cpu="100m", allow_source_image="true",
            pipeline_run_uid=name,
        )  # fmt: skip

    def shift(self, number: int, uid: str, colour: str = "green", **params: str) -> dict[str, str]:
        """Params of route-shift to one of the two versions."""
        digest, version = self.models[number]
        return {
            "colour": colour, "model_digest": digest, "model_version": version, "pipeline_run_uid": uid,
            "router_url": self.catalog.target.router, **params,
        }  # fmt: skip

    def said(self, run: Object) -> str:
        """The last line of a run's log."""
        return self.catalog.log(run).strip().splitlines()[-1]

    def split(self) -> splits.Split:
        """The InferenceService as the driver reads it."""
        return splits.Splits(self.cluster, NAME).require(NAME)

    def pods(self) -> dict[str, str]:
        """Uids of the pods by name."""
        items = self.catalog.get("pods", "-l", LABEL)["items"]
        return {item["metadata"]["name"]: item["metadata"]["uid"] for item in items}

    def answer(self) -> str:
        """Digest of the model that answers through the router; the status where none does."""
        import httpx

        url = self.catalog.target.router + "/predict-temperature?x=0.5&y=0.5&t=0.1"
        answer = httpx.get(url, headers={"Host": self.host}, timeout=10)
        return answer.headers.get("x-model-digest", str(answer.status_code))

    @cached_property
    def host(self) -> str:
        """Host of the Route."""
        return self.split().host

    def answers(self, requests: int = 60) -> Counter[str]:
        """Who answers how often."""
        return Counter(self.answer() for _ in range(requests))


def succeeded(run: Object) -> bool:
    return bool(run["status"]["conditions"][0]["status"] == "True")


def follow(service: Service, ended: threading.Event) -> None:
    """Stand for Open Data Hub's controller: the Route says what `spec.canary` says, and belongs to the service."""
    while not ended.wait(0.3):
        stored = service.cluster.get(kube.INFERENCE_SERVICE, NAME)
        if stored is None:
            continue
        wanted = canaries.exposed_route(stored, 8080 if stored["spec"].get("canary") else "http")
        assert wanted is not None, "not exposed"
        # The probes of these pods do not know the certificate of the lab's router.
        wanted["spec"] = {key: value for key, value in wanted["spec"].items() if key != "tls"}
        made = {"apiVersion": "route.openshift.io/v1", "kind": "Route", **wanted}
        made["metadata"] |= {"name": NAME, "namespace": service.catalog.namespace}
        found = service.cluster.get(kube.ROUTE, NAME)
        if found is None:
            service.cluster.create(kube.ROUTE, made)
        elif not kube.contains(found["spec"], wanted["spec"]) or len(splits.backends(found)) > len(
            splits.backends(made)
        ):
            change = {"spec": {"alternateBackends": None, **wanted["spec"]}}
            service.cluster.patch(kube.ROUTE, NAME, change, found["metadata"]["resourceVersion"])


@pytest.fixture(scope="module")
def service(catalog: Catalog, rivals: tuple[str, ...]) -> Iterator[Service]:
    """The rights of component isvc-canary for NAME; nothing of it is left afterwards."""
    for name in rivals:
        catalog.wait(name)
    rights = (CHECKOUT / "overlays/components/isvc-canary/rbac.yaml").read_text()
    catalog.kubectl("apply", "-f", "-", stdin=rights.replace("inverse-heat-pinn", NAME).replace("-isvc\n", "-e2e\n"))
    catalog.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(_route_rights()))
    yield Service(catalog)
    for kind in ("inferenceservice", "route"):
        catalog.kubectl("delete", kind, NAME, "--ignore-not-found", "--wait=false")


def _route_rights() -> list[Object]:
    """The Roles of tasks/ let both Tasks read Route inverse-heat-pinn; another name's is an overlay's business."""
    group = "rbac.authorization.k8s.io"
    rule = {"apiGroups": ["route.openshift.io"], "resources": ["routes"], "verbs": ["get"], "resourceNames": [NAME]}
    subjects = [{"kind": "ServiceAccount", "name": name} for name in ("kserve-deploy", "route-shift")]
    header = {"apiVersion": f"{group}/v1", "metadata": {"name": "isvc-e2e"}}
    reference = {"apiGroup": group, "kind": "Role", "name": "isvc-e2e"}
    return [
        {**header, "kind": "Role", "rules": [rule]},
        {**header, "kind": "RoleBinding", "roleRef": reference, "subjects": subjects},
    ]


@pytest.fixture(scope="module")
def first_model(service: Service) -> Object:
    """The first deployment, where nothing follows `spec.canary` yet."""
    return service.deploy(0, "isvc-1")


@pytest.fixture(scope="module")
def followed(service: Service, first_model: Object) -> Iterator[Service]:
    """From here on the Route follows."""
    with beside(lambda ended: follow(service, ended)):
        eventually(lambda: service.split().admitted, 60, every=0.5)
        yield service


@pytest.fixture(scope="module")
def dark(followed: Service) -> Service:
    """The second version as a canary without traffic."""
    run = followed.deploy(1, "isvc-2")
    assert succeeded(run), followed.said(run)
    return followed


def test_a_first_model_is_the_predictor_and_no_note_reaches_its_pods(service: Service, first_model: Object) -> None:
    assert succeeded(first_model), service.said(first_model)
    template = service.catalog.get("deployment", STABLE)["spec"]["template"]["metadata"]
    assert contract.ANNOTATION_SHIFT not in template["annotations"]
    assert template["annotations"][contract.ANNOTATION_CLAIMED_BY] == "isvc-1"
    assert service.catalog.get("inferenceservice", NAME)["metadata"]["annotations"][contract.ANNOTATION_SHIFT]


def test_kserve_alone_splits_nothing_and_that_is_refused(service: Service, first_model: Object) -> None:
    run = service.task("route-shift", "isvc-alone", **service.shift(0, "isvc-1", "blue"))
    assert not succeeded(run)
    said = service.said(run)
    assert said.startswith(f"error: nothing splits the traffic of InferenceService {NAME}: there is no Route {NAME}")
    assert "use driver route" in said
    assert (service.split().token, service.split().canary) == (0, None)


def test_a_next_model_is_a_dark_canary_beside_unchanged_pods(dark: Service) -> None:
    stored = dark.catalog.get("inferenceservice", NAME)
    [entry] = stored["spec"]["canary"]
    assert (entry["trafficPercent"], entry["predictor"]["name"]) == (0, contract.CANARY_NAME)

    def shown() -> Any:
        status = dark.catalog.get("inferenceservice", NAME)["status"]
        ready = {one["type"]: one["status"] for one in status["conditions"]}
        return ready.get("CanaryPredictorReady") == "True" and status["canaryStatuses"]

    [canary] = eventually(shown, 60, every=1)
    assert (canary["name"], canary["ready"], canary["trafficPercent"]) == (contract.CANARY_NAME, True, 0)
    # What the predictor lends to its canary it had on top: its own pods stay as many as they were.
    assert dark.catalog.get("deployment", STABLE)["status"]["readyReplicas"] == 1
    assert dark.catalog.get("deployment", CANARY)["status"]["readyReplicas"] == 1
    assert set(dark.answers()) == {dark.models[0][0]}


def test_kserves_own_webhook_refuses_in_its_own_words(dark: Service) -> None:
    entry = dark.catalog.get("inferenceservice", NAME)["spec"]["canary"][0]
    wrong = entry | {"predictor": entry["predictor"] | {"maxReplicas": 3}}
    with pytest.raises(tekton.Refused, match="must not set maxReplicas") as refused:
        dark.cluster.patch(kube.INFERENCE_SERVICE, NAME, {"spec": {"canary": [wrong]}}, dark.split().resource_version)
    assert refused.value.remedy == "correct what it names"


def test_a_canary_is_judged_promoted_and_settled_and_no_step_restarts_a_pod(dark: Service) -> None:
    before, answered = dark.pods(), Counter[str]()
    seen = dict(before)

    def watch(ended: threading.Event) -> None:
        while not ended.wait(0.2):
            answered.update(dark.answers(5))
            seen.update(dark.pods())

    steps = {key.replace("-", "_"): value for key, value in STEPS.items()}
    with beside(watch):
        run = dark.task("route-shift", "isvc-shift", **dark.shift(1, "isvc-2", **steps))
    assert succeeded(run), dark.said(run)
    results = {item["name"]: item["value"] for item in run["status"]["results"]}
    assert (results["outcome"], results["canary-verdict"], results["live-digest"]) == (
        "shifted", "PROMOTE", dark.models[1][0],
    )  # fmt: skip
    split = dark.split()
    assert (split.live, split.canary, split.colours["blue"].digest) == ("blue", None, dark.models[1][0])
    # One pod more than before: the predictor's with the new model. No write of weights or notes restarted one.
    assert len(seen) == len(before) + 1, (before, seen)
    assert set(answered) == {digest for digest, _ in dark.models}, answered
    eventually(lambda: not dark.catalog.kubectl("get", "deployment", CANARY, "--ignore-not-found"), 60, every=1)
    assert set(dark.answers()) == {dark.models[1][0]}
    told = [
        (item["reason"], item["regarding"]["kind"])
        for item in dark.catalog.get("events.events.k8s.io")["items"]
        if item["regarding"].get("name") == NAME and item["reportingController"] == "isotherm.dev/route-shift"
    ]
    assert told == [("Shifted", "InferenceService")]


def test_a_shift_whose_driver_dies_is_taken_back_and_its_canary_taken_out(dark: Service, first: Finished) -> None:
    run = dark.deploy(0, "isvc-3")
    assert succeeded(run), dark.said(run)
    dark.start(
        "route-shift", "isvc-orphan",
        **dark.shift(0, "isvc-3", weight="50", verify_requests="1000000", verify_timeout_seconds="600",
                     expiry_seconds="15"),
    )  # fmt: skip
    eventually(lambda: dark.split().weights["green"] == 50, 120, every=0.5)
    delete = ["--cascade=foreground", "--grace-period=0", "--force"]
    dark.catalog.kubectl("delete", "taskrun", "isvc-orphan", *delete)
    looks = guard.Guard(dark.cluster, guard.guarded({"GUARDED_E2E": f"isvc:{NAME}"}))
    eventually(lambda: looks.look(tekton.utcnow()), 60, every=1)
    assert dict(dark.split().weights) == {"blue": 100, "green": 0}
    eventually(lambda: looks.look(tekton.utcnow()) or dark.split().canary is None, 60, every=1)
    eventually(lambda: set(dark.answers(20)) == {dark.models[1][0]}, 30, every=1)
    assert looks.look(tekton.utcnow() + timedelta(days=1)) == []


def test_a_person_who_changes_the_percent_wins(dark: Service) -> None:
    run = dark.deploy(0, "isvc-4")
    assert succeeded(run), dark.said(run)
    slow = {"step_weights": "20", "bake_seconds": "100", "hold_seconds": "200", "interval_seconds": "1"}
    dark.start("route-shift", "isvc-person", **dark.shift(0, "isvc-4", **slow))
    eventually(lambda: dark.split().weights["green"] == 20, 120, every=0.5)
    entry = dark.catalog.get("inferenceservice", NAME)["spec"]["canary"][0] | {"trafficPercent": 5}
    dark.catalog.kubectl("patch", "inferenceservice", NAME, "--type=merge", "-p", json.dumps(
        {"spec": {"canary": [entry]}}))  # fmt: skip
    ended = dark.catalog.completed("taskrun", "isvc-person", 180)
    assert not succeeded(ended)
    assert "somebody set blue=95 green=5" in dark.said(ended)
    assert dark.split().weights["green"] == 5
    back = dark.task(
        "route-shift", "isvc-back", colour="previous", pipeline_run_uid="isvc-5", router_url=dark.catalog.target.router
    )
    assert succeeded(back), dark.said(back)
    assert (dark.split().live, dark.split().canary) == ("blue", None)
