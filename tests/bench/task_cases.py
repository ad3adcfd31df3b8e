"""Cases of the Tasks that write to the API server or to MLflow: what each is given, and what there is afterwards.

They differ in their model's name, namespace or experiment; `normal` leaves no such name in what is compared.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from deploy_target import SERVICES, Target
from mlflow_server import log_model
from rollout_stage import ONE, TWO, Stage, stages
from task_life import Case
from trainings import LINEAGE, heatinv

from isotherm import contract, kube, tekton
from isotherm.pinn import lineage
from isotherm.registry import client as registry
from isotherm.registry import versions

KINDS = (kube.ROUTE, kube.INFERENCE_SERVICE, kube.SERVING_RUNTIME, kube.SERVICE, kube.LEASE)
THREE = 2.0  # a third model
# Of a Lease: when and how often it changed hands is another matter than who has it.
OF_TURNS = ("acquireTime", "renewTime", "leaseTransitions", "leaseDurationSeconds")
SAME = (
    (r"\b[0-9a-f]{64}\b", "DIGEST"), (r"\bm-[0-9a-f]{32}\b", "MODEL"), (r"\b[0-9a-f]{32}\b", "RUN"),
    (r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME"), (r"127\.0\.0\.1:\d+", "SERVER"), (r"case-[0-9]+", "CASE"),
)  # fmt: skip


Scenario = Callable[["World", bool], Case]


@dataclass
class World:
    """A stage with two deployed models, a dataset, and a training of it."""

    stage: Stage
    folder: Path
    number: int = 0
    done: Case | None = None  # the training that is done already

    @property
    def target(self) -> Target:
        """The stage's own."""
        return self.stage.target

    @property
    def client(self) -> Any:
        """A client of the registry."""
        return registry.connect(self.target.mlflow_url)

    def new(self) -> tuple[int, str, Path]:
        """A number, a name and a folder that no other case has."""
        self.number += 1
        folder = self.folder / f"case-{self.number}"
        folder.mkdir()
        return self.number, f"case-{self.number}", folder


def objects(target: Target) -> Any:
    """The namespace's objects of the kinds that Tasks write, without times."""
    found = []
    for kind in KINDS:
        if kind is kube.SERVICE:  # read one by one
            stored = [one for name in SERVICES.values() if (one := target.cluster.get(kind, name))]
        else:
            stored = target.cluster.list(kind, "")
        for one in stored:
            spec = {key: value for key, value in one.get("spec", {}).items() if key not in OF_TURNS}
            notes = one["metadata"].get("annotations") or {}
            found.append([kind.name, one["metadata"]["name"], spec, sorted(notes.items())])
    return found


def versions_of(client: Any, name: str) -> Any:
    """Versions of a registered model, their tags and their aliases."""
    return [
        [one.version, sorted(client.get_model_version(name, one.version).aliases), sorted(one.tags.items())]
        for one in sorted(client.search_model_versions(f"name='{name}'"), key=lambda one: int(one.version))
    ]


def trainings_of(client: Any, experiment: str) -> Any:
    """Runs and logged models of an experiment."""
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return None
    runs = client.search_runs([found.experiment_id])
    models = client.search_logged_models([found.experiment_id])
    return [
        [
            [run.info.status, sorted(run.data.params.items()), sorted(run.data.tags.items()), sorted(run.data.metrics),
             len(run.inputs.dataset_inputs), _artifacts(client, run.info.run_id)]
            for run in runs
        ],
        [[str(model.status), sorted(model.tags.items())] for model in models],
    ]  # fmt: skip


def _artifacts(client: Any, run_id: str, path: str = "") -> list[str]:
    found = []
    for one in client.list_artifacts(run_id, path or None):
        found += _artifacts(client, run_id, one.path) if one.is_dir else [one.path]
    return sorted(found)


def normal(state: Any) -> Any:
    """A state without what differs from case to case: ids, times, ports, names."""
    text = json.dumps(state, default=str)
    for pattern, word in SAME:
        text = re.sub(pattern, word, text)
    return json.loads(text)


def admitted(world: World, again: bool) -> Case:
    """event-admit: the first event of a model, or a later one."""
    _, name, folder = world.new()
    place = replace(world.target, namespace=name)
    params = {"model-name": "plate", "cool-down-minutes": "60", "pipeline-run": "push-1"}
    if again:
        former = Case("event-admit", place, folder, {
            **params, "cool-down-minutes": "0", "event-key": "push-0", "pipeline-run-uid": "uid-0",
        }, lambda: None)  # fmt: skip
        former.live_well()
    params |= {"event-key": "push-1", "pipeline-run-uid": "uid-1"}

    def state() -> Any:
        return [objects(place), (folder / "results" / "admitted").read_text()]

    return Case("event-admit", place, folder, params, state)


def deployed(world: World, again: bool) -> Case:
    """kserve-deploy: a first model with its Route, or a third on the colour that had the second."""
    _, name, folder = world.new()
    _end_predictors(world)
    place = replace(world.target, namespace=name, model_name=world.target.model_name)
    models = world.target.models
    if again:
        place.deploy(models[ONE], "uid-1")
        place.deploy(models[TWO], "uid-2")
    wanted = models[ONE] if not again else models[THREE]
    request = place.deployment(wanted, "uid-3")
    params = {
        "model-name": request.model_name, "model-version": wanted.version, "model-digest": wanted.digest,
        "model-store": request.model_store, "predictor-image": request.predictor_image, "tls-termination": "none",
        "router-url": place.router_url, "pipeline-run-uid": "uid-3", "ready-timeout-seconds": "60",
    }  # fmt: skip
    place.store.mkdir(parents=True, exist_ok=True)
    store = {"model-store": place.store}
    return Case("kserve-deploy", place, folder, params, lambda: objects(place), workspaces=store)


def _end_predictors(world: World) -> None:
    """Of the case before this one, by asking for none: the local target deletes nothing."""
    place = replace(world.target, namespace=f"case-{world.number - 1}")
    for one in place.cluster.list(kube.INFERENCE_SERVICE, ""):
        none = {"spec": {"predictor": {"minReplicas": 0}}}
        name, version = one["metadata"]["name"], one["metadata"]["resourceVersion"]
        place.cluster.patch(kube.INFERENCE_SERVICE, name, none, version)


def _logged(world: World, folder: Path, digest: str) -> dict[str, str]:
    uri, run = log_model(world.target.mlflow_url, folder, digest)
    return {"model-uri": uri, "run-id": run, "model-digest": digest}


def registered(world: World, again: bool) -> Case:
    """mlflow-register, challenger: a model's first version, or its second."""
    number, name, folder = world.new()
    place = replace(world.target, namespace=name)
    if again:
        _register(world, name, folder, f"{number:064x}")
    given = _logged(world, folder, f"{number + 1:064x}")
    params = {"alias": "challenger", "model-name": name, "pipeline-run": "run-1", **given}
    return Case("mlflow-register", place, folder, params, partial(_registry, world, place, name))


def _registry(world: World, place: Target, name: str) -> Any:
    return [objects(place), versions_of(world.client, name)]


def _register(world: World, name: str, folder: Path, digest: str) -> str:
    uri = _logged(world, folder, digest)["model-uri"].removeprefix("models:/")
    tags = {contract.TAG_MODEL_DIGEST: digest}
    found = versions.register(world.client, name, uri, tags=tags, description="", check=lambda: None)
    return found.version


def promoted(world: World, again: bool) -> Case:
    """mlflow-register, champion: nobody was, or another one is."""
    number, name, folder = world.new()
    place = replace(world.target, namespace=name)
    before, digest = f"{number:064x}", f"{number + 1:064x}"
    expected = ""
    if again:
        expected = _register(world, name, folder, before)
        versions.promote(world.client, name, before, "", lambda: None)
    _register(world, name, folder, digest)
    params = {
        "alias": "champion", "model-name": name, "pipeline-run": "run-1", "model-uri": "", "run-id": "",
        "model-digest": digest, "expected-champion": expected,
    }  # fmt: skip
    return Case("mlflow-register", place, folder, params, partial(_registry, world, place, name))


def _training(world: World, name: str, folder: Path) -> Case:
    data = world.folder / "data"
    made = data / "heatinv"
    if not made.exists():
        heatinv(made)
    digest = lineage.dvc_md5(made)
    if not (data / digest).exists():
        (data / digest).symlink_to(made)
    params = {
        "dataset-hash": digest, "data-git-sha": "b" * 40, "epochs": "2", "restarts": "1", "experiment": name,
        "pipeline-run": "run-1",
    }  # fmt: skip
    return Case(
        "pinn-train", world.target, folder, params, partial(trainings_of, world.client, name),
        workspaces={"data": data}, variables=LINEAGE | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def trained(world: World, again: bool) -> Case:
    """pinn-train: a short training, the first of its experiment, or one that is done already: for every try the same
    one, as each has to leave it as it was.
    """
    if not again:
        _, name, folder = world.new()
        return _training(world, name, folder)
    world.done = world.done or _done(world)
    return world.done


def _done(world: World) -> Case:
    """A training that has ended well."""
    case = trained(world, again=False)
    case.live_well()
    return case


def evaluated(world: World, again: bool) -> Case:
    """evaluate-metrics: of a training that is done; twice says the same."""
    case = _done(world)
    report = json.loads((case.folder / "reports" / contract.REPORT_TRAIN).read_text())
    params = {
        "dataset-hash": case.params["dataset-hash"], "run-id": report["run_id"], "model-uri": report["model_uri"],
        "model-digest": report["model_digest"], "model-name": "nobody", "pde-loss-max": "1", "val-residual-max": "1",
    }  # fmt: skip
    judging = replace(case, task="evaluate-metrics", params=params)
    if again:
        judging.live_well()
    return judging


def reported(world: World, again: bool) -> Case:
    """report-run: of a run that moved the traffic to a version; the first time, or once more."""
    number, name, folder = world.new()
    digest = f"{number:064x}"
    version = _register(world, name, folder, digest)
    shifted = {"before": {"blue": 100, "green": 0}, "after": {"blue": 0, "green": 100}}
    deployment = {"model_name": name, "model_version": version, "model_digest": digest, "colour": "green"}
    tekton.write_report(folder / "reports" / contract.REPORT_DEPLOYMENT, deployment)
    moved = {"route": name, "outcome": "shifted", "finished_at": "2026-11-29T08:00:00Z", **shifted}
    tekton.write_report(folder / "reports" / contract.REPORT_SHIFT, moved)
    params = {"pipeline-run": "run-1", "tasks-status": "Succeeded"}
    case = Case(
        "report-run", world.target, folder, params, partial(versions_of, world.client, name),
        arguments=("deploy=Succeeded", "shift=Succeeded"),
    )  # fmt: skip
    if again:
        case.live_well()
    return case


# The longest first: two lanes share them.
SCENARIOS: tuple[Scenario, ...] = (trained, evaluated, deployed, registered, promoted, reported, admitted)


@contextmanager
def worlds(count: int) -> Iterator[list[World]]:
    """Everything that the cases need, so many times over; one MLflow server, in which no two have the same numbers."""
    with stages(count) as found, tempfile.TemporaryDirectory(prefix="crash-") as folder:
        made = []
        for lane, one in enumerate(found):
            one.target.register(THREE)
            place = Path(folder) / str(lane)
            place.mkdir()
            made.append(World(one, place, 1000 * lane))
        yield made
