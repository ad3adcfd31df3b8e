"""Stand-in for KServe and the controllers below it: InferenceServices become processes, Deployments, EndpointSlices.

Inputs   InferenceServices and ServingRuntimes (`model:` form, `pvc://` storage), Services
Outputs  predictor processes; Deployment, Service and EndpointSlices as in KServe's Standard mode, of canaries too;
         status and conditions; the Route that Open Data Hub makes of an exposed InferenceService
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from isotherm import tekton
from isotherm_local import canaries, processes
from isotherm_local.kinds import (
    DEPLOYMENT,
    ENDPOINT_SLICE,
    INFERENCE_SERVICE,
    ROUTE,
    SERVICE,
    SERVING_RUNTIME,
    Kind,
    Object,
)
from isotherm_local.pods import LABEL_INFERENCE_SERVICE, Pod, Template, Unsupported, pod_template
from isotherm_local.store import Store

if TYPE_CHECKING:
    from isotherm_local.supervisor import Children, Settings

BACKOFF_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
STABLE_SECONDS = 10.0
log = logging.getLogger("isotherm_local")


@dataclass
class Workload:
    """The processes of one predictor, and what went wrong last."""

    pods: list[Pod] = field(default_factory=list)
    template: Template | None = None
    failures: int = 0
    failure: str = ""
    exit_code: int | None = None
    start_after: float = 0.0

    def current(self) -> list[Pod]:
        """Pods of the wanted template."""
        return [p for p in self.pods if self.template is not None and p.template.digest == self.template.digest]

    def serving(self) -> list[Pod]:
        """Pods that get traffic: ready and not on their way out."""
        return [p for p in self.pods if p.ready and p.end_after is None]

    def rolled_out(self) -> bool:
        """Tell whether exactly the wanted pods are there and all are ready."""
        staying = [p for p in self.pods if p.end_after is None]
        wanted = self.template.replicas if self.template else 0
        return staying == self.current() and len(staying) == wanted and all(p.ready for p in staying)


class Controller:
    """Reconciles every InferenceService; one pass is quick and never waits for a process."""

    def __init__(
        self, store: Store, settings: Settings, children: Children, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.store, self.settings, self.children, self.clock = store, settings, children, clock
        self.workloads: dict[tuple[str, str], Workload] = {}
        self.changed = asyncio.Event()
        store.subscribers.append(self._notice)
        # An old pod stays until the router has stopped sending to it, as a preStop hook does on a cluster.
        self.drain_seconds = settings.reload_seconds + 0.5

    def _notice(self, kind: Kind, _: Object) -> None:
        if kind in (INFERENCE_SERVICE, SERVING_RUNTIME, SERVICE):
            self.changed.set()

    async def run(self) -> None:
        """Reconcile for ever: after every change, often while a pod starts, else once a second."""
        while True:
            self.changed.clear()
            await self._probe()
            self.reconcile()
            settled = all(w.rolled_out() and len(w.pods) == len(w.current()) for w in self.workloads.values())
            try:
                async with asyncio.timeout(1.0 if settled else 0.1):
                    await self.changed.wait()
            except TimeoutError:
                continue

    async def _probe(self) -> None:
        now = self.clock()
        due = [p for w in self.workloads.values() for p in w.pods if p.process.poll() is None and p.probe_after <= now]
        await asyncio.gather(*(pod.probe(now) for pod in due))

    def reconcile(self) -> None:
        """Bring processes and the objects that this controller owns to what the InferenceServices say."""
        for service in self.store.list(INFERENCE_SERVICE):
            namespace, found = service["metadata"]["namespace"], canaries.variants(service)
            for deployment, variant in found.items():
                workload = self.workloads.setdefault((namespace, deployment), Workload())
                try:
                    self._reconcile_one(variant, deployment, workload)
                except OSError as error:
                    workload.failure = f"{error.strerror or error} ({error.filename})"
                    log.error("%s: %s", deployment, workload.failure)
            self._end_orphans(service, found)
            self._write_status(service, next(iter(found)))
            self._expose(service)
        for service in self.store.list(SERVICE):
            try:
                self._write_slices(service)
            except OSError as error:
                log.error("%s: %s", service["metadata"]["name"], error)

    def _reconcile_one(self, service: Object, deployment: str, workload: Workload) -> None:
        namespace = service["metadata"]["namespace"]
        self._collect(workload)
        try:
            template = self._template(service)
            if workload.template is None or workload.template.digest != template.digest:
                workload.failures, workload.failure, workload.exit_code, workload.start_after = 0, "", None, 0.0
            workload.template = template
            self._scale(namespace, deployment, workload)
        except Unsupported as problem:
            workload.failure = str(problem)
        if workload.template is not None:
            self._write_deployment(service, deployment, workload)

    def _end_orphans(self, service: Object, found: dict[str, Object]) -> None:
        """Remove what a canary that is gone leaves: its pods, Deployment and Service, as KServe does."""
        namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
        for stored in self.store.list(DEPLOYMENT, namespace):
            deployment = stored["metadata"]["name"]
            if stored["metadata"]["labels"].get(LABEL_INFERENCE_SERVICE) != name or deployment in found:
                continue
            for kind in (DEPLOYMENT, SERVICE):
                self.store.remove(kind, namespace, deployment)
            for one in self._slices(namespace, deployment):
                self.store.remove(ENDPOINT_SLICE, namespace, one["metadata"]["name"])
            self._end(self.workloads.get((namespace, deployment), Workload()))
        for (space, deployment), workload in list(self.workloads.items()):
            if space == namespace and workload.template is None and not self.store.find(DEPLOYMENT, space, deployment):
                self._collect(workload)
                for pod in workload.pods:
                    pod.end_if_due(self.clock())
                if not workload.pods and deployment not in found:
                    del self.workloads[space, deployment]

    def _end(self, workload: Workload) -> None:
        workload.template = None
        for pod in workload.pods:
            pod.end_after = pod.end_after or self.clock() + self.drain_seconds

    def _expose(self, service: Object) -> None:
        """Write the Route of a platform that follows `spec.canary`; one of somebody else's is left alone."""
        namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
        ports = [
            port["targetPort"] if service["spec"].get("canary") else port["name"]
            for one in [self.store.find(SERVICE, namespace, canaries.deployment_name(service))]
            for port in (one or {"spec": {"ports": []}})["spec"]["ports"]
        ]
        wanted = canaries.exposed_route(service, ports[0]) if ports else None
        stored = self.store.find(ROUTE, namespace, name)
        own = stored is None or _owner(service) in [
            {key: one.get(key) for key in _owner(service)} for one in stored["metadata"].get("ownerReferences") or []
        ]
        if wanted is not None and own:
            host = {"host": stored["spec"]["host"]} if stored else {}
            self.store.apply(ROUTE, namespace, name, {**wanted, "spec": {**wanted["spec"], **host}})

    def _template(self, service: Object) -> Template:
        namespace = service["metadata"]["namespace"]
        name = service["spec"]["predictor"]["model"].get("runtime")
        if not name:
            raise Unsupported("spec.predictor.model.runtime is not set: the local target does not choose a runtime")
        runtime = self.store.find(SERVING_RUNTIME, namespace, name)
        if runtime is None:
            raise Unsupported(f"Waiting for runtime {name} to become available")
        return pod_template(service, runtime)

    def _collect(self, workload: Workload) -> None:
        """Drop pods whose process has ended; one that should run is started again after a growing pause."""
        now = self.clock()
        for pod in list(workload.pods):
            code = pod.process.poll()
            if code is None:
                if pod.ready and now - pod.started > STABLE_SECONDS:
                    workload.failures = 0
                continue
            workload.pods.remove(pod)
            self.children.forget(pod.name)
            if pod.end_after is None and workload.template and pod.template.digest == workload.template.digest:
                workload.failure = f"CrashLoopBackOff: exit {code}: {processes.last_line(pod.log)}"
                workload.exit_code = code
                workload.start_after = now + BACKOFF_SECONDS[min(workload.failures, len(BACKOFF_SECONDS) - 1)]
                workload.failures += 1
                log.warning("%s ended: %s", pod.name, workload.failure)

    def _scale(self, namespace: str, deployment: str, workload: Workload) -> None:
        """Start what is missing, end what is no longer wanted once the new pods are ready (maxUnavailable 0)."""
        template, now = workload.template, self.clock()
        assert template is not None  # noqa: S101 (set by the only caller)
        missing = template.replicas - len([p for p in workload.current() if p.end_after is None])
        if missing > 0 and now >= workload.start_after:
            for _ in range(missing):
                workload.pods.append(
                    Pod.start(namespace, deployment, template, self.settings.state, self.children, now)
                )
        current = [p for p in workload.current() if p.end_after is None]
        surplus = current[template.replicas :]
        if sum(p.ready for p in current) >= template.replicas:
            workload.failure, workload.exit_code = "", None
            surplus = surplus + [p for p in workload.pods if p.template.digest != template.digest]
        for pod in surplus:
            if pod.end_after is None:
                pod.end_after = now + (self.drain_seconds if pod.ready else 0.0)
        for pod in workload.pods:
            pod.end_if_due(now)

    def _write_deployment(self, service: Object, name: str, workload: Workload) -> None:
        template = workload.template
        assert template is not None  # noqa: S101 (checked by the only caller)
        namespace = service["metadata"]["namespace"]
        owner = _owner(service)
        metadata = {"labels": template.labels, "annotations": template.annotations}
        content = {
            "metadata": {**metadata, "ownerReferences": [owner]},
            "spec": {
                "replicas": template.replicas,
                "selector": {"matchLabels": {"app": template.labels["app"]}},
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "100%"}},
                "template": {"metadata": metadata, "spec": {"containers": [template.container]}},
            },
        }
        written = self.store.apply(DEPLOYMENT, namespace, name, content)
        status = self._deployment_status(written, workload)
        self.store.set_status(DEPLOYMENT, namespace, name, status)
        ports = [{"name": "http", "port": 80, "targetPort": template.port, "protocol": "TCP"}]
        spec = {"type": "ClusterIP", "selector": {"app": template.labels["app"]}, "ports": ports}
        service_metadata = {"labels": template.labels, "ownerReferences": [owner]}
        self.store.apply(SERVICE, namespace, name, {"metadata": service_metadata, "spec": spec})

    def _deployment_status(self, deployment: Object, workload: Workload) -> Object:
        staying = [p for p in workload.pods if p.end_after is None]
        ready, updated = [p for p in staying if p.ready], [p for p in workload.current() if p.end_after is None]
        wanted = deployment["spec"]["replicas"]
        available, done = len(ready) >= wanted, workload.rolled_out()
        conditions = [
            _condition(
                "Available", available, "MinimumReplicasAvailable", "MinimumReplicasUnavailable", workload.failure
            ),
            _condition(
                "Progressing",
                not workload.failure,
                "NewReplicaSetAvailable" if done else "ReplicaSetUpdated",
                "ReplicaSetUpdated",
                workload.failure,
            ),
        ]
        return {
            "observedGeneration": deployment["metadata"]["generation"],
            "replicas": len(staying),
            "updatedReplicas": len(updated),
            "readyReplicas": len(ready),
            "availableReplicas": len(ready),
            "unavailableReplicas": max(0, wanted - len(ready)),
            "conditions": self._dated(deployment, conditions),
        }

    def _dated(self, target: Object, conditions: list[Object]) -> list[Object]:
        """Add the time of the last change of each condition's status."""
        old = {c["type"]: c for c in target.get("status", {}).get("conditions") or []}
        now = tekton.rfc3339(self.store.now())
        for condition in conditions:
            before = old.get(condition["type"], {})
            same = before.get("status") == condition["status"]
            condition["lastTransitionTime"] = before.get("lastTransitionTime", now) if same else now
        return conditions

    def _write_status(self, service: Object, deployment: str) -> None:
        namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
        workload = self.workloads[namespace, deployment]
        serving = {own: bool(one.serving()) for (space, own), one in self.workloads.items() if space == namespace}
        canary = canaries.statuses(service, serving)
        ready = workload.rolled_out() and not workload.failure
        reason = "" if ready else "PredictorNotReady"
        conditions = [
            _condition("IngressReady", True, "", "", ""),
            _condition("PredictorReady", ready, "", reason, workload.failure),
            _condition("Ready", ready, "", reason, workload.failure),
        ]
        if canary:
            all_ready = all(one["ready"] for one in canary)
            conditions.append(_condition("CanaryPredictorReady", all_ready, "AllCanariesReady", "CanariesNotReady", ""))
        transition = "UpToDate" if ready else "BlockedByFailedLoad" if workload.failure else "InProgress"
        loaded = "Loaded" if workload.serving() else "FailedToLoad" if workload.failure else "Loading"
        model: Object = {
            "transitionStatus": transition,
            "states": {"activeModelState": loaded, "targetModelState": loaded},
        }
        if workload.failure:
            model["lastFailureInfo"] = {"reason": "ModelLoadFailed", "message": workload.failure}
            if workload.exit_code is not None:
                model["lastFailureInfo"]["exitCode"] = workload.exit_code
        status = {
            "observedGeneration": service["metadata"]["generation"],
            "deploymentMode": "Standard",
            "url": f"http://{deployment}.{namespace}.svc.cluster.local",
            "conditions": self._dated(service, conditions),
            "modelStatus": model,
            **({"canaryStatuses": canary} if canary else {}),
        }
        self.store.set_status(INFERENCE_SERVICE, namespace, name, status)

    def _write_slices(self, service: Object) -> None:
        """Write one EndpointSlice per serving pod of a Service; a slot that is no longer used stays, empty."""
        namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
        selector = service["spec"].get("selector")
        if not selector:
            return
        pods = [
            pod
            for (pod_namespace, _), workload in self.workloads.items()
            for pod in workload.serving()
            if pod_namespace == namespace and selector.items() <= pod.template.labels.items()
        ]
        owned = self._slices(namespace, name)
        for slot in range(max(1, len(pods), len(owned))):
            content = slice_content(service, pods[slot : slot + 1])
            self.store.apply(ENDPOINT_SLICE, namespace, f"{name}-{slot}", content)

    def _slices(self, namespace: str, service: str) -> list[Object]:
        slices = self.store.list(ENDPOINT_SLICE, namespace)
        return [o for o in slices if o["metadata"]["labels"].get("kubernetes.io/service-name") == service]


def slice_content(service: Object, pods: Sequence[Pod]) -> Object:
    """Describe one pod's address and real port under the names of the Service's ports; no pod gives an empty slice."""
    ports = [
        {"name": port.get("name", ""), "port": pod.port, "protocol": "TCP"}
        for pod in pods
        for port in service["spec"]["ports"]
        if port["targetPort"] in (pod.template.port, pod.template.port_name)
    ]
    endpoints = [
        {
            "addresses": ["127.0.0.1"],
            "conditions": {"ready": True, "serving": True, "terminating": False},
            "targetRef": {"kind": "Pod", "name": pod.name, "namespace": service["metadata"]["namespace"]},
        }
        for pod in pods
        if ports
    ]
    labels = {
        "kubernetes.io/service-name": service["metadata"]["name"],
        "endpointslice.kubernetes.io/managed-by": "isotherm-local",
    }
    owner = {**_owner(service), "apiVersion": "v1", "kind": "Service"}
    return {
        "metadata": {"labels": labels, "ownerReferences": [owner]},
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": ports,
    }


def _owner(owner: Object) -> Object:
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
    }


def _condition(kind: str, holds: bool, reason: str, otherwise: str, message: str) -> Object:
    condition = {"type": kind, "status": "True" if holds else "False", "reason": reason if holds else otherwise}
    if message and not holds:
        condition["message"] = message
    return {key: value for key, value in condition.items() if value}
