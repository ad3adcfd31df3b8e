"""F7 for the Tasks beside route-shift: SIGKILL of a Task's program right before and right after each of its writes to
the API server and to MLflow, then the same Task again in the same folders, as Tekton does with a pod that died.

Each try has to end as one that nobody killed: the same objects, runs, models, versions, tags and aliases, none twice.
Cases of a Task differ in their model's name, namespace or experiment; what is compared has no such name in it.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import task_program
import urllib3
import yaml
from bars import Bar, exactly, keep
from deploy_target import SERVICES, Target
from door import Answer, Door
from mlflow_server import log_model
from rollout_stage import ONE, TWO, Stage, stage
from trainings import LINEAGE, heatinv

from isotherm import contract, kube, tekton
from isotherm.pinn import lineage
from isotherm.registry import client as registry
from isotherm.registry import versions

KINDS = (kube.ROUTE, kube.INFERENCE_SERVICE, kube.SERVING_RUNTIME, kube.SERVICE, kube.LEASE)
LIFE_SECONDS = 180.0
THREE = 2.0  # a third model
# Of a Lease: when and how often it changed hands is another matter than who has it.
OF_TURNS = ("acquireTime", "renewTime", "leaseTransitions", "leaseDurationSeconds")
SAME = (
    (r"\b[0-9a-f]{64}\b", "DIGEST"), (r"\bm-[0-9a-f]{32}\b", "MODEL"), (r"\b[0-9a-f]{32}\b", "RUN"),
    (r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME"), (r"127\.0\.0\.1:\d+", "SERVER"), (r"case-[0-9]+", "CASE"),
)  # fmt: skip


class Before(Door):
    """Before the API server of a local target and its MLflow server, in one row."""

    def __init__(self, target: Target, at: int = 0, *, after: bool = False) -> None:
        super().__init__(at, after=after)
        [cluster] = yaml.safe_load(target.local.kubeconfig(target.namespace).read_text())["clusters"]
        server = urllib3.util.parse_url(cluster["cluster"]["server"])
        self._entry = server.path or ""  # the local API's paths begin with its token
        self._api, self._mlflow = f"http://{server.netloc}", target.mlflow_url
        self._pool = urllib3.PoolManager()

    def named(self, verb: str, path: str, body: bytes) -> str:
        """The verb, and the last words of the path that are no object's own name."""
        path = path.partition("?")[0]
        if verb in ("GET", "HEAD") or path.endswith("/search"):
            return ""
        words = path.removeprefix(self._entry).strip("/").split("/")
        if path.startswith(self._entry):
            after = words.index("namespaces") + 2 if "namespaces" in words else 0
            return f"{verb} {words[after]}"
        return f"{verb} artifact" if "mlflow-artifacts" in words else f"{verb} {'/'.join(words[3:5])}"

    def forward(self, verb: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        """To the server whose path it is."""
        server = self._api if path.startswith(self._entry) else self._mlflow
        answer: Answer = self._pool.request(
            verb, server + path, headers=headers, body=body or None, retries=False, redirect=False, decode_content=False
        )
        return answer

    def kubeconfig(self, target: Target, folder: Path) -> Path:
        """The target's, by this door."""
        content = yaml.safe_load(target.local.kubeconfig(target.namespace).read_text())
        content["clusters"][0]["cluster"]["server"] = self.url + self._entry
        path = folder / "kubeconfig"
        path.write_text(yaml.safe_dump(content))
        return path


@dataclass
class Case:
    """One Task that is to be killed: where it runs, what it is given, and what there is afterwards."""

    task: str
    target: Target
    folder: Path
    params: Mapping[str, str]
    state: Callable[[], Any]
    arguments: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    workspaces: Mapping[str, Path] = field(default_factory=dict)

    def live(self, door: Before) -> int:
        """Run the program once, behind this door; its exit status."""
        task = task_program.task(self.task)
        for name in ("reports", "model", "results"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        folders = {"reports": self.folder / "reports", "model": self.folder / "model", **self.workspaces}
        params = dict(self.params)
        if "mlflow-uri" in {one["name"] for one in task["spec"]["params"]}:
            params["mlflow-uri"] = door.url
        variables = task_program.environment(task, params, folders, self.folder / "results")
        variables |= {"KUBECONFIG": str(door.kubeconfig(self.target, self.folder)), **self.variables}
        process = task_program.start(task, variables, self.folder, *self.arguments)

        def kill() -> None:
            process.kill()
            process.wait()

        door.kill = kill
        try:
            return process.wait(LIFE_SECONDS)
        finally:
            kill()

    def said(self) -> str:
        """The last line of the program's log."""
        lines = (self.folder / "log").read_text(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else ""


Scenario = Callable[["World", bool], Case]


@dataclass
class World:
    """A stage with two deployed models, a dataset, and a training of it that nobody kills."""

    stage: Stage
    folder: Path
    number: int = 0

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
        _live_well(world, former)
    params |= {"event-key": "push-1", "pipeline-run-uid": "uid-1"}

    def state() -> Any:
        return [objects(place), (folder / "results" / "admitted").read_text()]

    return Case("event-admit", place, folder, params, state)


def deployed(world: World, again: bool) -> Case:
    """kserve-deploy: a first model with its Route, or a third on the colour that had the second."""
    _, name, folder = world.new()
    for one in KINDS[:3]:
        _delete_all(world, one)
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


def _delete_all(world: World, kind: kube.Kind) -> None:
    """End the predictors of former cases."""
    from kubernetes import client

    api = client.CustomObjectsApi(world.stage.client())
    for number in range(1, world.number):
        place = replace(world.target, namespace=f"case-{number}")
        for one in place.cluster.list(kind, ""):
            api.delete_namespaced_custom_object(
                kind.group, kind.version, place.namespace, kind.plural, one["metadata"]["name"]
            )


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
    state = lambda: [objects(place), versions_of(world.client, name)]  # noqa: E731
    return Case("mlflow-register", place, folder, params, state)


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
    state = lambda: [objects(place), versions_of(world.client, name)]  # noqa: E731
    return Case("mlflow-register", place, folder, params, state)


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
    state = lambda: trainings_of(world.client, name)  # noqa: E731
    return Case(
        "pinn-train", world.target, folder, params, state, workspaces={"data": data},
        variables=LINEAGE | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def trained(world: World, again: bool) -> Case:
    """pinn-train: a short training, the first of its experiment, or one that is done already."""
    _, name, folder = world.new()
    case = _training(world, name, folder)
    if again:
        _live_well(world, case)
    return case


def evaluated(world: World, again: bool) -> Case:
    """evaluate-metrics: of a training that is done; twice says the same."""
    case = trained(world, again=True)
    report = json.loads((case.folder / "reports" / contract.REPORT_TRAIN).read_text())
    params = {
        "dataset-hash": case.params["dataset-hash"], "run-id": report["run_id"], "model-uri": report["model_uri"],
        "model-digest": report["model_digest"], "model-name": "nobody", "pde-loss-max": "1", "val-residual-max": "1",
    }  # fmt: skip
    judging = replace(case, task="evaluate-metrics", params=params)
    if again:
        _live_well(world, judging)
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
    state = lambda: versions_of(world.client, name)  # noqa: E731
    case = Case("report-run", world.target, folder, params, state, arguments=("deploy=Succeeded", "shift=Succeeded"))
    if again:
        _live_well(world, case)
    return case


def _live_well(world: World, case: Case) -> None:
    """A life that nobody ends, and that must end well."""
    with Before(world.target) as door:
        status = case.live(door)
    if status != 0:
        raise RuntimeError(f"{case.task} ended with {status}: {case.said()}")


SCENARIOS: tuple[Scenario, ...] = (admitted, deployed, registered, promoted, trained, evaluated, reported)


@contextmanager
def world() -> Iterator[World]:
    """Everything that the cases need, ended with the block."""
    with stage() as one, tempfile.TemporaryDirectory(prefix="crash-") as folder:
        one.target.register(THREE)
        yield World(one, Path(folder))


def _cut_turns(target: Target) -> None:
    """Let a dead writer's Lease end in a second, so that nobody waits the whole minute."""
    for one in target.cluster.list(kube.LEASE, ""):
        change = {"spec": {"leaseDurationSeconds": 1}}
        if one["spec"].get("leaseDurationSeconds"):
            target.cluster.patch(kube.LEASE, one["metadata"]["name"], change, one["metadata"]["resourceVersion"])


def _tried(world: World, scenario: Scenario, again: bool, at: int, after: bool, whole: Any) -> dict[str, Any]:
    """Kill at one write, run once more, and compare."""
    case = scenario(world, again)
    with Before(case.target, at, after=after) as door:
        case.live(door)
    _cut_turns(case.target)
    with Before(case.target) as second:
        status = case.live(second)
    state = normal(case.state())
    wrong = [] if status == 0 else [f"the second life ended with {status}: {case.said()}"]
    if state != whole:
        wrong.append({"whole": whole, "found": state})
    return {
        "task": case.task, "write": door.writes[-1] if door.writes else "", "number": at, "after": after,
        "died": door.struck, "repeated": second.writes, "wrong": wrong,
    }  # fmt: skip


def crash_tasks() -> list[Bar]:
    """F7: every write of every Task but route-shift's, on both sides."""
    rows, wholes = [], {}
    with world() as one:
        for scenario, again in product(SCENARIOS, (False, True)):
            case = scenario(one, again)
            with Before(case.target) as door:
                status = case.live(door)
            if status != 0:
                raise RuntimeError(f"{case.task} ended with {status}: {case.said()}")
            whole = normal(case.state())
            wholes[f"{scenario.__name__} {again}"] = {"writes": door.writes, "whole": whole}
            for at, after in product(range(1, len(door.writes) + 1), (False, True)):
                rows.append({"scenario": scenario.__name__} | _tried(one, scenario, again, at, after, whole))
            print(f"     {case.task}: {len(door.writes)} writes", flush=True)
    raw = keep("rollout-crash-tasks", {"rows": rows, "whole": wholes})
    good = sum(row["died"] and not row["wrong"] for row in rows)
    return [
        exactly("crash points of other Tasks that end as whole (F7)", good, len(rows), "points", raw=raw,
                note="every write to API and MLflow; a dead writer's Lease is cut to a second"),
    ]  # fmt: skip
