"""Deploy a registered model on the colour that has no traffic (Task kserve-deploy).

Reads   MODEL_NAME MODEL_VERSION MODEL_DIGEST MLFLOW_URI (which registered model), MODEL_STORE PREDICTOR_IMAGE (what
        is served, by what), PREDICTOR_REPLICAS PREDICTOR_CPU PREDICTOR_MEMORY (how large), SERVICE_BLUE SERVICE_GREEN
        DRIVER ROUTE ROUTE_HOST TLS_TERMINATION ROUTER_URL (where traffic comes from), PIPELINE_RUN_UID,
        READY_TIMEOUT_SECONDS, ALLOW_SOURCE_IMAGE, DRY_RUN; folders REPORTS_DIR MODEL_STORE_DIR MLFLOW_CREDENTIALS_DIR
        MODEL_STORE_CREDENTIALS_DIR
Writes  the model's folder in the model store; ServingRuntime, InferenceService and Services; on a first deployment the
        Route (all traffic to blue); deployment.json. An existing Route is never written. With driver isvc: the
        ServingRuntime and one InferenceService, whose canary gets the model and no traffic
Result  RESULT_COLOUR RESULT_MODEL_DIGEST RESULT_INFERENCE_SERVICE RESULT_ROUTE_CREATED
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isotherm import contract, kube, tekton
from isotherm.deploy import plan, readiness, registered, render, routes, smoke, split_plan, splits, store, traffic

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from isotherm.bundle import Bundle


ONE_SMALL = render.Size()


@dataclass(frozen=True)
class Request:
    """What to deploy and where: the Task's params, checked."""

    model_name: str
    model_version: str
    model_digest: str
    services: routes.Services
    route: str
    model_store: str
    predictor_image: str
    run_uid: str
    driver: str = contract.DRIVER_ROUTE
    size: render.Size = ONE_SMALL
    route_host: str = ""
    tls_termination: str = "edge"
    router_url: str = ""
    ready_timeout_seconds: float = 300.0
    allow_source_image: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        if not self.run_uid:
            raise tekton.BadInput("param pipeline-run-uid is empty", remedy="give $(context.pipelineRun.uid)")
        if not self.predictor_image:
            raise tekton.BadInput(
                "param predictor-image is empty",
                remedy="give the predictor's image, isotherm/pinn-api by tag or digest",
            )
        if self.driver not in contract.DRIVERS:
            raise tekton.BadInput(f"param driver is {self.driver[:40]!r}", remedy="give route or isvc")
        if not self.ready_timeout_seconds > 0:
            raise tekton.BadInput("param ready-timeout-seconds is not above 0", remedy="give seconds, such as 300")
        if self.tls_termination not in render.TERMINATIONS:
            raise tekton.BadInput(f"param tls-termination is {self.tls_termination[:40]!r}", remedy="give edge or none")


@dataclass(frozen=True)
class Prepared:
    """A deployment that is decided but not carried out."""

    model: registered.RegisteredModel
    location: store.Location
    choice: plan.Choice
    changes: list[plan.Change]
    route: routes.Route | None
    claimed_by: str
    inference_service: str
    workload: str  # name of the colour's Deployment, and of the Service that KServe makes for it


def prepare(
    request: Request, cluster: kube.Cluster, model: registered.RegisteredModel, location: store.Location
) -> Prepared:
    """Choose the colour and decide what has to change. Reads only.

    Raises `tekton.Refused` as `plan.choose_colour` and the rules for each object do.
    """
    if request.driver == contract.DRIVER_ISVC:
        planned = split_plan.prepare(request, cluster, model, location.uri)
        workload = splits.services(request.route)[planned.choice.colour]
        return Prepared(
            model, location, planned.choice, planned.changes, planned.split, planned.claimed_by, request.route, workload
        )
    # The InferenceServices are read before the Route: a claim made after this read makes the write below a conflict.
    names = {colour: render.inference_service_name(request.model_name, colour) for colour in contract.COLOURS}
    stored = {colour: cluster.get(kube.INFERENCE_SERVICE, name) for colour, name in names.items()}
    route = routes.Routes(cluster, request.services).get(request.route)
    held = {colour: _note(service, contract.ANNOTATION_MODEL_DIGEST) for colour, service in stored.items()}
    choice = plan.choose_colour(route, held, request.model_digest, request.run_uid)
    changes = []
    if choice.outcome != "unchanged":  # what serves everybody is not touched
        wanted = render.serving_runtime(request.predictor_image)
        changes.append(plan.runtime(cluster.get(kube.SERVING_RUNTIME, render.runtime_name()), wanted))
        wanted = render.inference_service(
            model_name=model.name, colour=choice.colour, digest=model.digest, semver=model.semver,
            data_version=model.data_version, claimed_by=request.run_uid, storage_uri=location.uri,
            size=request.size,
        )  # fmt: skip
        changes.append(plan.inference_service(stored[choice.colour], wanted))
    for colour, name in request.services.items():
        wanted = render.service(name=name, model_name=model.name, colour=colour)
        changes.append(plan.service(cluster.get(kube.SERVICE, name), wanted))
    if route is None:
        changes.append(plan.Change(plan.CREATE, kube.ROUTE, _first_route(request, choice.colour)))
    untouched = _note(stored[choice.colour], contract.ANNOTATION_CLAIMED_BY)
    claimed_by = untouched if choice.outcome == "unchanged" else request.run_uid
    name = names[choice.colour]
    return Prepared(model, location, choice, changes, route, claimed_by, name, render.predictor_name(name))


def _note(stored: kube.Object | None, annotation: str) -> str:
    annotations = ((stored or {}).get("metadata") or {}).get("annotations") or {}
    return str(annotations.get(annotation, ""))


def _first_route(request: Request, live: str) -> kube.Object:
    return render.route(
        name=request.route, model_name=request.model_name, live=live, services=request.services,
        host=request.route_host, termination=request.tls_termination, digest=request.model_digest,
        holder=request.run_uid, live_since=tekton.rfc3339(tekton.utcnow()),
    )  # fmt: skip


def deploy(
    request: Request, cluster: kube.Cluster, client: MlflowClient, volume: Path | None, store_credentials: Path | None
) -> dict[str, Any]:
    """Deploy one registered model and return the report (`deployment.json`).

    Copies the model, applies the objects, waits until every endpoint serves it and repeats the evaluated predictions.
    Raises `tekton.Refused`, `tekton.BadInput` or `tekton.Unavailable`; traffic is where it was in each case.
    """
    model = registered.resolve(
        client,
        request.model_name,
        request.model_version,
        request.model_digest,
        allow_source_image=request.allow_source_image,
    )
    request = replace(request, model_digest=model.digest)
    location = store.locate(request.model_store, request.model_name, request.model_digest)
    with tempfile.TemporaryDirectory(prefix="isotherm-") as folder:
        bundle = registered.download(model, Path(folder))
    place = store.place_for(location, volume, store_credentials)
    prepared = prepare(request, cluster, model, location)
    _say(f"model {model.name} version {model.version} goes to {prepared.choice.colour} ({prepared.choice.outcome})")
    for change in prepared.changes:
        _say(plan.diff(change) if request.dry_run else f"{change.action} {change.kind.name} {change.name}")
    report: dict[str, Any] = {
        "model_name": model.name, "model_version": model.version, "model_digest": model.digest,
        "colour": prepared.choice.colour, "inference_service": prepared.inference_service,
        "model_location": location.uri, "outcome": prepared.choice.outcome, "dry_run": request.dry_run,
        "plan": [change.summary() for change in prepared.changes], "ready_seconds": None, "smoke": None,
        "route": request.route, "route_created": False,
    }  # fmt: skip
    if request.dry_run:
        return report
    copied = store.put(bundle, place, location.uri)
    _say(f"{'copied the model to' if copied else 'the model is already in'} {location.uri}")
    return report | _carry_out(request, cluster, prepared, bundle)


def _carry_out(request: Request, cluster: kube.Cluster, prepared: Prepared, bundle: Bundle) -> dict[str, Any]:
    """Apply everything but the Route, wait, test, and only then let traffic in where there was no Route."""
    _refuse_if_traffic_moved(request, cluster, prepared)
    objects = [change for change in prepared.changes if change.kind is not kube.ROUTE]
    for change in objects:
        plan.apply(cluster, change)
    name, digest = prepared.inference_service, prepared.model.digest
    seconds = readiness.wait(
        cluster, name, prepared.workload, digest, prepared.claimed_by, request.ready_timeout_seconds, _say,
        workload=prepared.workload, beat=lambda: _give_way(request, cluster, prepared),
    )  # fmt: skip
    _say(f"{name} is ready after {seconds:.1f} s")
    found = readiness.ready(cluster, prepared.workload)
    tested = smoke.check(found, bundle.metadata.samples, digest)
    _say(f"{tested['endpoints']} endpoint(s) repeat the evaluated predictions to {tested['max_abs_difference']:.1e}")
    if request.driver == contract.DRIVER_ISVC:
        splits.Splits(cluster, name).refuse_handed_down(prepared.workload)
        return {"ready_seconds": round(seconds, 3), "smoke": tested, "route_created": False}
    created = prepared.route is None and _create_route(request, cluster, prepared.choice.colour)
    return {"ready_seconds": round(seconds, 3), "smoke": tested, "route_created": created}


def _refuse_if_traffic_moved(request: Request, cluster: kube.Cluster, prepared: Prepared) -> None:
    """Look at the Route once more right before the colour changes: it must still have no traffic."""
    isvc = request.driver == contract.DRIVER_ISVC
    driver: routes.Driver = splits.Splits(cluster, request.route) if isvc else routes.Routes(cluster, request.services)
    route = driver.get(request.route)
    if route is not None and (prepared.route is None or route.weights != prepared.route.weights):
        raise kube.Conflict(
            f"{route} changed to {routes.describe(route.weights)} while this was planned",
            remedy="run again",
        )


def _give_way(request: Request, cluster: kube.Cluster, prepared: Prepared) -> None:
    """End the wait for a colour that another run has taken, as soon as trying again finds the other colour free.

    That is when the taker has moved the Route. Until then a new try would take the colour back, and so on in turns.
    Raises `kube.Conflict`. With driver isvc the taker's write of the one InferenceService is a conflict already.
    """
    if request.driver == contract.DRIVER_ISVC or prepared.choice.outcome == "unchanged":
        return
    stored = cluster.get(kube.INFERENCE_SERVICE, prepared.inference_service)
    taker = _note(stored, contract.ANNOTATION_CLAIMED_BY)
    if taker in ("", request.run_uid):
        return
    route = routes.Routes(cluster, request.services).get(request.route)
    before = prepared.route.weights if prepared.route else None
    if route is not None and not route.shifting and route.weights != before:
        raise kube.Conflict(
            f"PipelineRun {taker} took {prepared.choice.colour} in the meantime and {route} has "
            f"{routes.describe(route.weights)}",
            remedy="run again: the other colour is free",
        )


def _create_route(request: Request, cluster: kube.Cluster, live: str) -> bool:
    """Create the Route of a first deployment and wait until it answers. Raises `kube.Conflict` where another run made
    it.
    """
    cluster.create(kube.ROUTE, _first_route(request, live))
    deadline = time.monotonic() + request.ready_timeout_seconds
    while not (route := routes.Routes(cluster, request.services).require(request.route)).admitted:
        if time.monotonic() >= deadline:
            raise tekton.Unavailable(
                f"no router admitted Route {request.route}: {route.not_admitted_because}",
                remedy="check the router and param route-host; then run again",
            )
        time.sleep(readiness.POLL_SECONDS)
    _say(f"created Route {request.route} (host {route.host}), all traffic to {live}")
    with traffic.Router(request.router_url, route.host, tls=route.tls) as router:
        traffic.wait_for_first_answers(router, request.model_digest, max(1.0, deadline - time.monotonic()), _say)
    return True


def _say(line: str) -> None:
    print(line, flush=True)


def _folder(variable: str) -> Path | None:
    """An optional workspace: its path, or None where it is not bound."""
    text = os.environ.get(variable, "")
    return Path(text) if text else None


def run() -> None:
    """Deploy, and leave report and results."""
    with tekton.results(colour="", model_digest="", inference_service="", route_created="false") as results:
        place = tekton.environment(reports_dir=Path)
        with tekton.report(place.reports_dir / contract.REPORT_DEPLOYMENT, "kserve-deploy") as report:
            report.update(_from_environment())
        results.colour, results.model_digest = report["colour"], report["model_digest"]
        results.inference_service = report["inference_service"]
        results.route_created = str(report["route_created"]).lower()


def _from_environment() -> dict[str, Any]:
    """Deploy what the environment asks for."""
    env = tekton.environment(
        model_name=str, model_version=str, model_digest=str, mlflow_uri=str, service_blue=str, service_green=str,
        route=str, model_store=str, predictor_image=str, predictor_replicas=int, predictor_cpu=str,
        predictor_memory=str, prediction_log_claim=str, route_host=str, tls_termination=str, router_url=str,
        driver=str, pipeline_run_uid=str, ready_timeout_seconds=float, allow_source_image=bool, dry_run=bool,
    )  # fmt: skip
    from isotherm.registry import client as registry

    request = Request(
        model_name=env.model_name, model_version=env.model_version, model_digest=env.model_digest,
        services=routes.pair(env.service_blue, env.service_green), route=env.route or env.model_name,
        model_store=env.model_store, predictor_image=env.predictor_image, run_uid=env.pipeline_run_uid,
        driver=env.driver, route_host=env.route_host, tls_termination=env.tls_termination, router_url=env.router_url,
        size=render.Size(
            env.predictor_replicas, env.predictor_cpu, env.predictor_memory, env.prediction_log_claim
        ),
        ready_timeout_seconds=env.ready_timeout_seconds, allow_source_image=env.allow_source_image,
        dry_run=env.dry_run,
    )  # fmt: skip
    cluster = kube.Cluster.from_config()
    client = registry.connect(env.mlflow_uri, _folder("MLFLOW_CREDENTIALS_DIR"))
    with registry.answers(env.mlflow_uri):
        return deploy(request, cluster, client, _folder("MODEL_STORE_DIR"), _folder("MODEL_STORE_CREDENTIALS_DIR"))


def main() -> int:
    """Run as the Task kserve-deploy does."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    return tekton.step_main(run)


if __name__ == "__main__":
    raise SystemExit(main())
