"""What serves: each Route's live colour, version, data and since when; and the rollback behind one command.

Reads  Routes, Services and InferenceServices through the Kubernetes API of the current kubeconfig, or of the local
       target
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from isotherm import contract, tekton

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "pipelines" / "rollback" / "runs" / "rollback.yaml"
_ROUTES = ("route.openshift.io", "v1", "routes")
_INFERENCE_SERVICES = ("serving.kserve.io", "v1beta1", "inferenceservices")
PIPELINE_RUNS = ("tekton.dev", "v1", "pipelineruns")
_SELECTOR = "serving.kserve.io/inferenceservice"
_REQUEST_SECONDS = 15
_POLL_SECONDS = 2.0


def kubeconfig(state: Path, local: bool) -> tuple[Path | None, bool]:
    """Find the kubeconfig to use and whether it is the local target's; None stands for the pod's own account.

    Raises `Unavailable` where there is neither a current one nor a local target.
    """
    own = state / "kubeconfig"
    named = [Path(part) for part in os.environ.get("KUBECONFIG", "").split(os.pathsep) if part]
    current = [path for path in named or [Path.home() / ".kube" / "config"] if path.is_file()]
    if current and not local:
        return current[0], "isotherm-local" in current[0].read_text(encoding="utf-8")
    if own.is_file():
        return own, True
    if "KUBERNETES_SERVICE_HOST" in os.environ and not local:
        return None, False
    raise tekton.Unavailable(
        "there is no kubeconfig and no local target", remedy="log in (oc login), or run isotherm up"
    )


def api_client(state: Path, local: bool = False) -> tuple[Any, str, bool]:
    """Make a client of the Kubernetes API; return it, its context's namespace, and whether it is the local target."""
    from kubernetes import client, config

    path, is_local = kubeconfig(state, local)
    if path is None:
        config.load_incluster_config()
        namespace = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace").read_text(encoding="utf-8")
        return client.ApiClient(), namespace.strip(), False
    try:
        # Kubernetes' own rule: KUBECONFIG may name several files, merged.
        named = os.environ.get("KUBECONFIG", "")
        several = named if str(path) in named.split(os.pathsep) else str(path)
        config.load_kube_config(config_file=several)
        _, active = config.list_kube_config_contexts(config_file=several)
    except config.ConfigException as error:
        raise tekton.BadInput(
            f"kubeconfig {path} cannot be used ({error})", remedy="log in again (oc login)"
        ) from error
    return client.ApiClient(), str(active["context"].get("namespace") or "default"), is_local


def items(api: Any, resource: tuple[str, str, str], namespace: str) -> list[dict[str, Any]]:
    """List objects of a kind; none where the cluster does not have the kind.

    Raises `Unavailable` where the API does not answer, `Refused` where it forbids.
    """
    from kubernetes import client
    from kubernetes.client.exceptions import ApiException

    group, version, plural = resource
    custom = client.CustomObjectsApi(api)
    try:
        found = custom.list_namespaced_custom_object(
            group, version, namespace, plural, _request_timeout=_REQUEST_SECONDS
        )
    except ApiException as error:
        if error.status == 404:
            return []
        raise _explained(error, f"{plural} in {namespace}") from error
    except Exception as error:
        raise _unreachable(error) from error
    items: list[dict[str, Any]] = found.get("items") or []
    return items


def _explained(error: Any, what: str) -> tekton.TaskError:
    reason = f"{error.status} {error.reason}"
    if error.status in (401, 403):
        return tekton.Refused(f"the API refuses {what} ({reason})", remedy="log in with an account that may read it")
    return tekton.Unavailable(f"the API answers {reason} for {what}", remedy="try again; look at the API server")


def _unreachable(error: Exception) -> tekton.TaskError:
    text = str(getattr(error, "reason", None) or error)[:200]
    return tekton.Unavailable(f"the Kubernetes API does not answer ({text})", remedy="start it (isotherm up) or log in")


def _selected(api: Any, namespace: str, service: str) -> str:
    """Name the InferenceService whose pods a Service selects; empty where it selects none."""
    from kubernetes import client
    from kubernetes.client.exceptions import ApiException

    try:
        found = client.CoreV1Api(api).read_namespaced_service(service, namespace, _request_timeout=_REQUEST_SECONDS)
    except ApiException as error:
        if error.status == 404:
            return ""
        raise _explained(error, f"Service {service}") from error
    return str((found.spec.selector or {}).get(_SELECTOR) or "")


def weights(route: Mapping[str, Any]) -> dict[str, int]:
    """Read a Route's weights by Service; a backend without one has 100, as in OpenShift."""
    spec = route["spec"]
    backends = [spec["to"], *(spec.get("alternateBackends") or ())]
    return {backend["name"]: 100 if backend.get("weight") is None else int(backend["weight"]) for backend in backends}


@dataclass(frozen=True)
class Behind:
    """What stands behind a Service of a Route: a colour's InferenceService, and the notes about its model."""

    colour: str
    inference_service: str
    notes: Mapping[str, str]


def _behind_services(
    api: Any, namespace: str, route: Mapping[str, Any], services: Mapping[str, Mapping[str, Any]]
) -> dict[str, Behind]:
    """Follow each Service's selector to its InferenceService; those that select none are left out."""
    found = {}
    for service in weights(route):
        name = _selected(api, namespace, service)
        metadata = (services.get(name) or {}).get("metadata") or {}
        colour = (metadata.get("labels") or {}).get(contract.LABEL_COLOUR, service)
        if name:
            found[service] = Behind(colour, name, metadata.get("annotations") or {})
    return found


def _front_of(route: Mapping[str, Any], services: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The InferenceService of driver isvc whose platform made this Route; None where there is none."""
    for owner in route["metadata"].get("ownerReferences") or ():
        stored = services.get(owner.get("name", "")) if owner.get("kind") == "InferenceService" else None
        if stored and contract.ANNOTATION_SHIFT in (stored["metadata"].get("annotations") or {}):
            return stored
    return None


def _behind_split(stored: Mapping[str, Any]) -> dict[str, Behind]:
    """The predictor and the canary of an InferenceService, by the Services that KServe makes for them."""
    from isotherm.deploy import splits

    name, spec = stored["metadata"]["name"], stored["spec"]
    predictors = [spec["predictor"], *(entry["predictor"] for entry in spec.get("canary") or ())]
    return {
        service: Behind(colour, name, predictor.get("annotations") or {})
        for (colour, service), predictor in zip(splits.services(name).items(), predictors, strict=False)
    }


def describe(route: Mapping[str, Any], behind: Mapping[str, Behind], notes: Mapping[str, str]) -> dict[str, Any]:
    """Describe what a Route serves: what is `behind` its Services, and the `notes` of its shifts."""
    split = weights(route)
    total = sum(split.values())
    backends: list[dict[str, Any]] = []
    for service, weight in split.items():
        model = behind.get(service) or Behind(service, "", {})
        backends.append(
            {
                "service": service,
                "colour": model.colour,
                "share": weight / total if total else 0.0,
                "inference_service": model.inference_service,
                "model_version": model.notes.get(contract.ANNOTATION_MODEL_VERSION, ""),
                "model_digest": model.notes.get(contract.ANNOTATION_MODEL_DIGEST, ""),
                "data_version": model.notes.get(contract.ANNOTATION_DATA_VERSION, ""),
            }
        )
    live = [backend for backend in backends if backend["share"] > 0]
    only = live[0] if len(live) == 1 else {}
    return {
        "route": route["metadata"]["name"],
        "namespace": route["metadata"].get("namespace", ""),
        "host": route["spec"].get("host", ""),
        "driver": contract.DRIVER_ROUTE,
        "live_colour": only.get("colour", ""),
        "model_version": only.get("model_version", ""),
        "model_digest": only.get("model_digest", "") or notes.get(contract.ANNOTATION_LIVE_DIGEST, ""),
        "data_version": only.get("data_version", ""),
        "live_since": notes.get(contract.ANNOTATION_LIVE_SINCE, ""),
        "shifting": len(live) > 1,
        "problem": "",
        "backends": backends,
    }


def _describe_split(route: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    from isotherm.deploy import splits

    notes, problem = {}, ""
    try:
        notes = splits.decode(stored["metadata"]["name"], stored["metadata"]["annotations"][contract.ANNOTATION_SHIFT])
    except tekton.Refused as error:  # what serves is known all the same, and so are the other Routes
        problem = error.line()
    return describe(route, _behind_split(stored), notes) | {"driver": contract.DRIVER_ISVC, "problem": problem}


def read_status(api: Any, namespace: str) -> list[dict[str, Any]]:
    """Describe every Route of a namespace that leads to Isotherm's models, whoever splits its traffic."""
    services = {item["metadata"]["name"]: item for item in items(api, _INFERENCE_SERVICES, namespace)}
    described = []
    for route in items(api, _ROUTES, namespace):
        front = _front_of(route, services)
        if front is not None:
            described.append(_describe_split(route, front))
        elif behind := _behind_services(api, namespace, route, services):
            described.append(describe(route, behind, route["metadata"].get("annotations") or {}))
    return described


def print_status(target: tuple[Any, str, bool], namespace: str, as_json: bool) -> int:
    """Print what serves in a namespace, as a table or JSON."""
    api, current, _ = target
    found = read_status(api, namespace or current)
    if as_json:
        print(json.dumps(found, indent=2))
        return 0
    if not found:
        print(f"no Route in namespace {namespace or current} serves a model")
    for entry in found:
        split = ", ".join(f"{backend['colour']} {backend['share']:.0%}" for backend in entry["backends"])
        print(f"{entry['route']}  (http://{entry['host']})")
        if entry["shifting"]:
            print(f"  a shift is in progress: {split}")
        else:
            since = f" since {entry['live_since']}" if entry["live_since"] else ""
            print(f"  live     {entry['live_colour'] or 'nothing'}{since}  ({split})")
            print(f"  model    {entry['model_version'] or '?'}  digest {entry['model_digest'][:12] or '?'}")
            print(f"  data     {entry['data_version'] or '?'}")
        if entry["problem"]:
            print(f"  problem  {entry['problem']}")
    return 0


def rollback_run(model: str, route: str, params: Mapping[str, str]) -> dict[str, Any]:
    """Make the PipelineRun of Pipeline rollback for a model, from the catalog's own example."""
    body: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    given = {item["name"]: item["value"] for item in body["spec"].get("params") or ()}
    given |= {"model-name": model, "route": route or model, **params}
    body["spec"]["params"] = [{"name": name, "value": value} for name, value in given.items()]
    return body


def rollback(options: argparse.Namespace) -> int:
    """Run Pipeline rollback where the model serves: through the runner on the local target, as an object on a cluster.

    Raises `BadInput` where there is no Route of that name with a model behind it.
    """
    route = options.route or options.model
    api, current, is_local = api_client(options.state, options.local)
    namespace = options.namespace or current
    found = next((entry for entry in read_status(api, namespace) if entry["route"] == route), None)
    if found is None:
        what = f"namespace {namespace} has no Route {route} with a model"
        raise tekton.BadInput(what, remedy="name another with -n or --route; isotherm status lists them")
    services = {f"service-{backend['colour']}": backend["service"] for backend in found["backends"]}
    known = {key: value for key, value in services.items() if key in ("service-blue", "service-green")}
    if found["driver"] == contract.DRIVER_ISVC:
        known = {"driver": contract.DRIVER_ISVC}  # KServe names the Services
    if is_local:
        return _rollback_here(options, namespace, known)
    body = rollback_run(options.model, route, known | dict(options.param))
    return _rollback_there(api, namespace, body)


def _state_of(path: Path | None, state: Path) -> Path:
    """Find the state folder that a local target's kubeconfig lies in."""
    parents = path.resolve().parents if path else ()
    return next((folder for folder in parents if (folder / "cluster.json").is_file()), state)


def _rollback_here(options: argparse.Namespace, namespace: str, known: Mapping[str, str]) -> int:
    from isotherm_local import cli
    from isotherm_local.cluster import Cluster

    path, _ = kubeconfig(options.state, options.local)
    options.state, options.namespace = _state_of(path, options.state), namespace
    where = Cluster(options.state).endpoints
    urls = {"router-url": where.router_url, "mlflow-uri": where.mlflow_url}
    names = {"model-name": options.model, "route": options.route or options.model}
    options.param = list({**urls, **names, **known, **dict(options.param)}.items())
    options.file, options.files, options.name = EXAMPLE, [], ""
    options.check = options.fields = options.delete_first = options.plain = options.verbose = False
    options.foreign_images = "refuse"
    return cli.run(options)


def _rollback_there(api: Any, namespace: str, body: dict[str, Any]) -> int:
    """Create the PipelineRun and follow it; Ctrl-C stops following, not the run."""
    from kubernetes import client
    from kubernetes.client.exceptions import ApiException

    custom = client.CustomObjectsApi(api)
    condition: dict[str, str] = {}
    group, version, plural = PIPELINE_RUNS
    try:
        made = custom.create_namespaced_custom_object(group, version, namespace, plural, body)
        name = made["metadata"]["name"]
        print(f"PipelineRun {name} in {namespace}: created", flush=True)
        said = ""
        while True:
            found = custom.get_namespaced_custom_object(group, version, namespace, plural, name)
            condition = next(iter((found.get("status") or {}).get("conditions") or ()), {})
            line = f"{condition.get('reason', 'Started')}: {condition.get('message', '')}"
            if line != said:
                print(f"PipelineRun {name}: {line}", flush=True)
                said = line
            if condition.get("status") in ("True", "False"):
                break
            time.sleep(_POLL_SECONDS)
    except ApiException as error:
        if error.status == 404:
            what = f"namespace {namespace} has no PipelineRuns or no such run"
            raise tekton.Unavailable(
                what, remedy="install OpenShift Pipelines and the catalog (oc apply -k .)"
            ) from error
        raise _explained(error, f"PipelineRun in {namespace}") from error
    for result in (found.get("status") or {}).get("results") or ():
        print(f"  {result['name']} = {result['value']}")
    if condition["status"] == "True":
        return 0
    raise tekton.TaskError(
        f"rollback {name} ended with {line}", remedy=f"look at it: tkn pipelinerun logs {name} -n {namespace}"
    )
