"""One installation of the catalog for the whole session: overlays/dev in a namespace that enforces PSS restricted."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from lab.part import CHECKOUT
from local_pipeline import started
from waiting import eventually
from xdist.scheduler import LoadScopeScheduling

from e2e import measurements
from e2e.cluster import BUILD, Finished, Space, Target
from e2e.events import NAMESPACE, Events, installed
from e2e.written import Written
from isotherm.deploy import routes
from isotherm_local.runner.normal import normal_form

MODEL = "inverse-heat-pinn"
NAMESPACES = {"isotherm-dev", "isotherm-staging", "ml-prod"}  # of the overlays
# A second model with a Route of its own (overlays/dev has rights for it): its traffic leaves the first one alone.
OTHER = "pouch-cell"
OTHER_PARAMS = {
    "model_name": OTHER,
    "route": OTHER,
    "service_blue": f"{OTHER}-blue",
    "service_green": f"{OTHER}-green",
}


# A few iterations make a model that the gate refuses. The run claims an event's key and keeps other events away.
EVENT_KEY = "retrain-0123456789abcdef-20261124190000"
REFUSED_PARAMS = {"epochs": "3", "event_key": EVENT_KEY, "cool_down_minutes": "60"}


@dataclass
class Catalog(Space):
    """Namespace isotherm-dev with two versions of the measurements."""

    revisions: list[str] = field(default_factory=list)
    repository: str = ""

    def params(self, revision: int = 0, **params: str) -> dict[str, str]:
        """Params of Pipeline inverse-heat-pinn; names with underscores."""
        given = {
            "repo-url": self.repository,
            "revision": self.revisions[revision],
            "data-path": "data/heatinv",
            "mlflow-uri": self.target.mlflow,
            "router-url": self.target.router,
            "tls-termination": "none",
            "restarts": "2",  # two are enough to tell a spread; the gate is the real one
        }
        return given | {name.replace("_", "-"): value for name, value in params.items()}

    def run(self, name: str, revision: int = 0, *, spec: dict[str, Any] | None = None, **params: str) -> str:
        """Start Pipeline inverse-heat-pinn."""
        return self.pipeline_run(MODEL, name, self.params(revision, **params), **(WORKSPACES | (spec or {})))

    def registry(self) -> Any:
        """A client of the MLflow server."""
        from mlflow import MlflowClient

        return MlflowClient(self.target.mlflow, registry_uri=self.target.mlflow)

    def versions(self, model: str = MODEL) -> list[Any]:
        """Registered versions of a model."""
        return sorted(self.registry().search_model_versions(f"name='{model}'"), key=lambda v: int(v.version))

    def champion(self, model: str = MODEL) -> Any:
        """The version that alias champion names."""
        return self.registry().get_model_version_by_alias(model, "champion")

    def route(self, model: str = MODEL) -> dict[str, int]:
        """Weights of a model's Route by Service."""
        spec = self.get("route", model)["spec"]
        return {item["name"]: item["weight"] for item in [spec["to"], *spec.get("alternateBackends", [])]}

    def answers(self, model: str = MODEL, path: str = "/predict-temperature?x=0.5&y=0.5&t=0.1") -> Any:
        """One answer through the router."""
        import httpx

        host = self.get("route", model)["spec"]["host"]
        return httpx.get(self.target.router + path, headers={"Host": host}, timeout=10)


WORKSPACES: dict[str, Any] = {
    "workspaces": [
        {"name": "workspace", "persistentVolumeClaim": {"claimName": "isotherm"}},
        {"name": "dvc-credentials", "secret": {"secretName": "dvc-credentials"}},
    ]
}


# Two lanes side by side (pytest -n 2): a pipeline's run leaves a third of two cores idle. Those of the one installed
# catalog follow each other; all others have namespaces of their own.
CATALOG, PLATFORM = "catalog", "platform"
# These come last in their lane: staging and production fill the node, and restarts kills what everything stands on, so
# it waits for the other lane's end; the history is told last.
LAST = ("test_overlays.py", "test_restarts.py", "test_history.py")
ON_CATALOG = {
    "test_admission.py", "test_concurrency.py", "test_failures.py", "test_gpu.py", "test_history.py", "test_isvc.py",
    "test_parity_catalog.py", "test_pipeline.py", "test_pods.py", "test_restarts.py", "test_shadow.py", "test_tasks.py",
    "test_tkn.py",
}  # fmt: skip


def lane(nodeid: str) -> str:
    """The lane of a test, by its file: xdist knows no more of it when it hands out the tests."""
    return CATALOG if nodeid.partition("::")[0].rpartition("/")[2] in ON_CATALOG else PLATFORM


class Lanes(LoadScopeScheduling):
    """A worker takes a whole lane."""

    def _split_scope(self, nodeid: str) -> str:
        return lane(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Lanes:
    """Hand out lanes, not tests."""
    return Lanes(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the tests; one after the other, without xdist, the platform's come first. Each file must be in its lane."""
    items.sort(
        key=lambda item: (
            lane(item.nodeid) == CATALOG,
            item.path.name in LAST and 1 + LAST.index(item.path.name),
        )
    )
    for item in items:
        uses = bool({"catalog", "local_forms"} & set(getattr(item, "fixturenames", ())))
        if uses != (lane(item.nodeid) == CATALOG):
            raise pytest.UsageError(f"{item.nodeid}: its file is in the wrong lane; see ON_CATALOG in conftest.py")


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Leave a mark for the other lane when the platform's last test has ended."""
    if item is _last_of_platform(item.session):
        _platform_ended(item.config).touch()


def _last_of_platform(session: pytest.Session) -> pytest.Item | None:
    found = [item for item in session.items if lane(item.nodeid) == PLATFORM]
    return found[-1] if found else None


def _platform_ended(config: pytest.Config) -> Path:
    """A file of this run of the suite, the same for every worker of xdist."""
    run = getattr(config, "workerinput", {}).get("testrunuid", f"{os.getpid()}")
    BUILD.mkdir(parents=True, exist_ok=True)
    return BUILD / f"platform-ended-{run}"


@pytest.fixture
def alone(request: pytest.FixtureRequest) -> None:
    """Wait until no other test runs: this one takes from all of them what they stand on."""
    if _last_of_platform(request.session):
        eventually(_platform_ended(request.config).exists, 1500, every=1)


@pytest.fixture(scope="session")
def target() -> Target:
    return Target.find()


@pytest.fixture(scope="session")
def written(target: Target) -> Iterator[Written]:
    """What is written to the models' Routes, from before the first of them is made."""
    services = {MODEL: routes.pair("blue", "green"), OTHER: routes.pair(f"{OTHER}-blue", f"{OTHER}-green")}
    with Written(target.kubeconfig, NAMESPACES, services) as seen:
        yield seen


@pytest.fixture(scope="session")
def catalog(target: Target, written: Written) -> Iterator[Catalog]:
    """The catalog, installed afresh; E2E_KEEP=1 leaves it for a look."""
    space = Catalog(target, "isotherm-dev")
    space.remove(wait=True)
    wipe(space)
    BUILD.mkdir(parents=True, exist_ok=True)
    space.install(str(CHECKOUT / "overlays" / "dev"))
    space.repository = measurements.repository(target)
    space.revisions = [
        measurements.publish(target, "heatinv", 1000, 1),
        measurements.publish(target, "heatinv", 1200, 2),
    ]
    yield space
    if not os.environ.get("E2E_KEEP"):
        space.remove()


def wipe(space: Catalog) -> None:
    """Remove what an earlier session left: its champion would judge our models, its runs would be counted with ours."""
    registry = space.registry()
    if experiment := registry.get_experiment_by_name(MODEL):
        for run in registry.search_runs([experiment.experiment_id], max_results=1000):
            registry.delete_run(run.info.run_id)
    for name in (MODEL, OTHER):
        for model in registry.search_registered_models(f"name='{name}'"):
            registry.delete_registered_model(model.name)


@pytest.fixture(scope="session")
def first(catalog: Catalog) -> Finished:
    """The first run: no champion yet."""
    return catalog.wait(catalog.run("first"))


@pytest.fixture(scope="session")
def refused(catalog: Catalog, first: Finished, rivals: tuple[str, ...]) -> tuple[Finished, list[str], list[str]]:
    """A run of an event that the gate refuses, and the model's versions before and after it."""
    before = [version.version for version in catalog.versions()]
    ended = catalog.wait(catalog.run("refused", revision=1, **REFUSED_PARAMS))
    return ended, before, [version.version for version in catalog.versions()]


@pytest.fixture(scope="session")
def rivals(catalog: Catalog, first: Finished) -> tuple[str, ...]:
    """Two runs of one model, started at once; other tests run beside them, `test_concurrency` waits for their end."""
    return tuple(catalog.run(f"rival-{s}", seed=s, min_improvement="-1", **OTHER_PARAMS) for s in ("31", "32"))


@pytest.fixture(scope="session")
def no_data(catalog: Catalog, first: Finished) -> Finished:
    """A run whose data is not in the repository."""
    return catalog.wait(catalog.run("no-data", data_path="data/none"))


# Runs that test_parity_catalog compares, named after the cluster's fixtures; the second needs the first's champion.
LOCAL_RUNS: dict[str, dict[str, Any]] = {
    "first": {},
    "refused": {"revision": 1, **REFUSED_PARAMS},
    "no-data": {"data_path": "data/none"},
}


@pytest.fixture(scope="session")
def local_forms(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[dict[str, Any]]]]:
    """Normal forms of the runs on a local target, made by one thread beside the tests that come next."""
    params = [getattr(item, "callspec", None) for item in request.session.items]
    wanted = {spec.params["run"] for spec in params if spec and "run" in spec.params}
    wanted |= {"first"} if "refused" in wanted else set()

    def step_aside() -> None:
        """The thread's programs are weighed one by one against all pods together: they take what those leave."""
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 15)

    # The thread outlives the target: what it has started ends with it.
    with ThreadPoolExecutor(1, initializer=step_aside) as pool, ExitStack() as stack:
        target = pool.submit(lambda: stack.enter_context(started(tmp_path_factory.mktemp("parity"))))

        def form(name: str) -> dict[str, Any]:
            return normal_form(target.result().run(name, **LOCAL_RUNS[name]))

        yield {name: pool.submit(form, name) for name in LOCAL_RUNS if name in wanted}


@pytest.fixture(scope="session")
def events_ahead(target: Target) -> Iterator[Future[Events]]:
    """Installs the triggers beside the first tests: it takes a minute until Triggers trusts a new interceptor."""
    with ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        yield pool.submit(lambda: stack.enter_context(installed(target, NAMESPACE)))


@pytest.fixture(autouse=True)
def _events_begin(request: pytest.FixtureRequest) -> None:
    """Begin to install with the first test of the lane that wants them."""
    wanted = any("events" in getattr(item, "fixturenames", ()) for item in request.session.items)
    if wanted and lane(request.node.nodeid) == PLATFORM:
        request.getfixturevalue("events_ahead")


@pytest.fixture(scope="session")
def events(events_ahead: Future[Events]) -> Events:
    """The triggers in a namespace of their own."""
    return events_ahead.result()
