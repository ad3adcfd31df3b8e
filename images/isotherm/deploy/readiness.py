"""Whether a colour is ready: the expected pod template is rolled out and every endpoint answers with its digest.

Reads   the colour's Deployment, InferenceService (the least number of pods; its status for the reason only, as its
        condition can be stale), EndpointSlices, and `GET /v2/models/<name>` of each endpoint that is ready
Writes  nothing

The least number of pods is what counts, not the Deployment's: KServe makes it with one pod, which an autoscaler raises
to `minReplicas` some 15 s later, and further under load; a pod more that starts takes nothing from those that serve.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from isotherm import contract, kube, tekton
from isotherm.deploy import answers, render

SERVICE_LABEL = "kubernetes.io/service-name"
POLL_SECONDS = 0.5
SAY_EVERY_SECONDS = 5.0
ANSWER_SECONDS = 5.0
MODEL_PATH = f"/v2/models/{contract.SERVED_MODEL_NAME}"


@dataclass(frozen=True)
class Endpoint:
    """One address that takes requests."""

    address: str
    port: int
    ready: bool

    @property
    def url(self) -> str:
        """Base URL, with an IPv6 address in brackets."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"http://{host}:{self.port}"


def endpoints(cluster: kube.Cluster, service: str) -> list[Endpoint]:
    """List a Service's endpoints as its EndpointSlices give them, those that are terminating left out."""
    slices = cluster.list(kube.ENDPOINT_SLICE, f"{SERVICE_LABEL}={service}")
    return sorted({endpoint for one in slices for endpoint in _of_slice(one)}, key=lambda e: (e.address, e.port))


def ready(cluster: kube.Cluster, service: str) -> list[Endpoint]:
    """List a Service's endpoints that take requests now."""
    return [endpoint for endpoint in endpoints(cluster, service) if endpoint.ready]


def _of_slice(one: kube.Object) -> list[Endpoint]:
    ports = one.get("ports") or []
    if not ports:
        return []
    port = next((p["port"] for p in ports if p.get("name") == "http"), ports[0]["port"])
    found = []
    for entry in one.get("endpoints") or []:
        conditions = entry.get("conditions") or {}
        if not conditions.get("terminating"):
            # A missing `ready` means ready (Kubernetes API, EndpointConditions).
            found += [Endpoint(a, port, conditions.get("ready") is not False) for a in entry.get("addresses") or []]
    return found


def least_pods(inference_service: kube.Object | None, workload: str) -> int:
    """How many pods a predictor, or the canary that `workload` names, has at least; 1 where nothing says so."""
    if inference_service is None:
        return 1
    name, spec = inference_service["metadata"]["name"], inference_service["spec"]
    if workload == render.predictor_name(f"{name}-{contract.CANARY_NAME}"):
        return int(max([1, *(entry["predictor"].get("minReplicas", 1) for entry in spec.get("canary") or [])]))
    return render.own_replicas(spec)


def missing_from_rollout(deployment: kube.Object | None, digest: str, claimed_by: str, least: int = 1) -> str:
    """Say what a Deployment still lacks; empty when all its pods are of the template with this digest and at least
    `least` of them are ready.

    KServe hands the InferenceService's annotations down to the pods, so a new claim rolls them too.
    """
    if deployment is None:
        return "KServe has not made the Deployment yet"
    spec, status = deployment["spec"], deployment.get("status") or {}
    served = _digest_of_template(spec)
    if served != digest:
        return f"the pod template carries digest {served[:12] or '(none)'}, not {digest[:12]}"
    notes = (spec["template"].get("metadata") or {}).get("annotations") or {}
    if notes.get(contract.ANNOTATION_CLAIMED_BY, claimed_by) != claimed_by:
        return "the pod template carries an earlier run's claim"
    if status.get("observedGeneration", 0) < deployment["metadata"].get("generation", 1):
        return "the Deployment's controller has not seen its newest version"
    if spec.get("replicas", 1) < 1:
        return "the Deployment is scaled to 0"
    total, new, serving = (status.get(name, 0) for name in ("replicas", "updatedReplicas", "readyReplicas"))
    if new != total or serving < least:
        return f"{serving} of {least} pods ready, {new} of them new, {total} in all"
    return ""


def _digest_of_template(spec: kube.Object) -> str:
    for container in spec.get("template", {}).get("spec", {}).get("containers", []):
        for variable in container.get("env") or []:
            if variable.get("name") == contract.ENV_MODEL_DIGEST:
                return str(variable.get("value", ""))
    return ""


def complaints(deployment: kube.Object | None, inference_service: kube.Object | None) -> str:
    """The cluster's own words on why pods do not start: last load failure, then conditions that are False."""
    status = (inference_service or {}).get("status") or {}
    failure = (status.get("modelStatus") or {}).get("lastFailureInfo") or {}
    texts = [failure.get("message") or failure.get("reason") or ""]
    for holder in (deployment or {}, inference_service or {}):
        for condition in (holder.get("status") or {}).get("conditions") or []:
            failed = condition.get("status") == "False" or (
                condition.get("type") == "ReplicaFailure" and condition.get("status") == "True"
            )
            if failed:
                texts.append(condition.get("message") or condition.get("reason") or "")
    unique = list(dict.fromkeys(" ".join(text.split()) for text in texts if text))
    return "; ".join(unique)[:600]


def unready_endpoints(found: Sequence[Endpoint], digest: str, least: int = 1) -> str:
    """Ask every endpoint that takes requests which model it serves; say which does not answer with this digest, or that
    there are less than `least`; else empty.
    """
    import httpx

    if not found:
        return "the Service has no endpoints"
    taking = [endpoint for endpoint in found if endpoint.ready]
    if len(taking) < least:
        waiting = next((f"; {endpoint.url} is not ready" for endpoint in found if not endpoint.ready), "")
        return f"{len(taking)} of {least} endpoints ready{waiting}"
    with httpx.Client(timeout=ANSWER_SECONDS, trust_env=False) as client:
        for endpoint in taking:
            try:
                answer = answers.get(client, endpoint.url + MODEL_PATH)
            except httpx.HTTPError as error:
                return f"endpoint {endpoint.url} does not answer ({error or type(error).__name__})"
            served = answer.headers.get(contract.HEADER_MODEL_DIGEST, "")
            if answer.status_code != 200 or served != digest:
                return f"endpoint {endpoint.url} answers {answer.status_code} with digest {served[:12] or '(none)'}"
    return ""


def state(
    cluster: kube.Cluster, inference_service: str, service: str, digest: str, claimed_by: str, workload: str = ""
) -> str:
    """Say what a colour still lacks to be ready with this digest; empty when it is ready.

    `workload` names the Deployment where it is not `<isvc>-predictor`.
    """
    workload = workload or render.predictor_name(inference_service)
    stored, deployment = cluster.get(kube.INFERENCE_SERVICE, inference_service), cluster.get(kube.DEPLOYMENT, workload)
    least = least_pods(stored, workload)
    lacking = missing_from_rollout(deployment, digest, claimed_by, least)
    if not lacking:
        lacking = unready_endpoints(endpoints(cluster, service), digest, least)
    if not lacking:
        return ""
    reason = complaints(deployment, stored)
    return f"{lacking} ({reason})" if reason else lacking


def wait(
    cluster: kube.Cluster,
    inference_service: str,
    service: str,
    digest: str,
    claimed_by: str,
    timeout_seconds: float,
    say: Callable[[str], None],
    *,
    workload: str = "",
    beat: Callable[[], None] = lambda: None,
) -> float:
    """Wait until the colour is ready; return how long it took, s. `beat` is called at every look, and may raise.

    Raises `tekton.Unavailable` with the last reason when the time is over.
    """
    start, said, said_at = time.monotonic(), "", 0.0
    while True:
        beat()
        lacking = state(cluster, inference_service, service, digest, claimed_by, workload)
        waited = time.monotonic() - start
        if not lacking:
            return waited
        if waited >= timeout_seconds:
            raise tekton.Unavailable(
                f"InferenceService {inference_service} is not ready after {waited:.0f} s: {lacking}",
                remedy=f"look at its pods (oc describe pods -l "
                f"serving.kserve.io/inferenceservice={inference_service}), then run again",
            )
        if lacking != said or waited - said_at >= SAY_EVERY_SECONDS:
            said, said_at = lacking, waited
            say(f"{waited:5.1f} s  waiting for {inference_service}: {lacking}")
        time.sleep(POLL_SECONDS)
