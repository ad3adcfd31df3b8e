"""Stages for rollouts that go wrong: local targets with two models each, and clusters that fail at a chosen write."""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mlflow_server
from deploy_target import SERVICES, Target, started
from rollout_history import Recorder
from waiting import beside

from isotherm import contract, kube, tekton
from isotherm.deploy import canary, guard, routes, shift
from isotherm.deploy.bake import Pace

ONE, TWO = 0.0, 1.0
STEPS = (20, 50)
BLUE, GREEN = {"blue": 100, "green": 0}, {"blue": 0, "green": 100}
# Quick: what is measured is what happens around the writes, not how long the judge takes.
JUDGED = canary.Settings(STEPS, Pace(0.2, 0, 60), probes_per_second=400, latency_seconds=5.0)


class Killed(BaseException):
    """The driver is dead: nothing of it runs any more, no `except` and no `finally` that would write."""


def die() -> None:
    """End the driver at once."""
    raise Killed


class Struck(kube.Cluster):
    """A cluster whose user is struck right before or right after its n-th write (from 1)."""

    def __init__(
        self, api_client: Any, namespace: str, *, at: int = 0, after: bool = False, strike: Callable[[], object] = die
    ) -> None:
        super().__init__(api_client, namespace, deadline_seconds=5)
        self._at, self._after, self._strike = at, after, strike
        self.writes = 0

    def _write(self, *arguments: Any) -> Any:
        self.writes += 1
        mine = self.writes == self._at
        if mine and not self._after:
            self._strike()
        done = super()._write(*arguments)  # type: ignore[misc]
        if mine and self._after:
            self._strike()
        return done


class Doubtful(kube.Cluster):
    """A cluster whose API answers some writes with 409, 429 or 500, and loses the answer to others that it did."""

    def __init__(self, api_client: Any, namespace: str, rng: random.Random) -> None:
        super().__init__(api_client, namespace, deadline_seconds=20)
        self._rng = rng
        self.hurt = 0
        sound = self._custom.patch_namespaced_custom_object

        def patch(**options: Any) -> Any:
            from kubernetes.client.exceptions import ApiException
            from urllib3.exceptions import ReadTimeoutError

            draw = self._rng.random()
            if draw < 0.2:
                self.hurt += 1
                raise ApiException(status=self._rng.choice([409, 429, 500]), reason="of the bench")
            done = sound(**options)
            if draw < 0.3:
                self.hurt += 1
                raise ReadTimeoutError(None, "", "the answer was lost")  # type: ignore[arg-type]
            return done

        self._custom.patch_namespaced_custom_object = patch


@dataclass
class Stage:
    """Version 1 live on blue, version 2 ready on green for run-2; `recorder` has what became of the Route."""

    target: Target
    client: Any
    recorder: Recorder

    def reset(self, uid: str = "run-2") -> str:
        """Everything to blue, no note of a former shift; green is `uid`'s. Returns the Route's resourceVersion."""
        self.target.all_to_blue(self.target.models[ONE])
        notes = self.target.stored(kube.INFERENCE_SERVICE, f"{self.target.model_name}-green")["metadata"]["annotations"]
        if notes[contract.ANNOTATION_CLAIMED_BY] != uid:
            self.target.deploy(self.target.models[TWO], uid)
        return self.target.route().resource_version

    def cluster(self, kind: Callable[..., kube.Cluster] = kube.Cluster, **options: Any) -> Any:
        """A connection of its own."""
        return kind(self.client(), self.target.namespace, **options)

    def shifter(
        self, cluster: kube.Cluster, uid: str = "run-2", settings: canary.Settings | None = JUDGED, **changes: Any
    ) -> shift.Shifter:
        """A canary of version 2."""
        few = {"verify_requests": 30} | changes
        return self.target.shifter("green", self.target.models[TWO], uid, settings, cluster=cluster, **few)

    def legal(self, before: set[str]) -> str:
        """Say what is wrong with the end of a run, which found the objects `before`; empty where nothing is."""
        found = self.target.route()
        if found.shifting or dict(found.weights) not in (BLUE, GREEN):
            return f"the Route ends with {routes.describe(found.weights)}, pending: {found.shifting}"
        added = set(self.target.everything()) ^ before
        return f"objects came or went: {sorted(added)}" if added else ""

    def guard(self) -> guard.Guard:
        """The dead man's switch, to be asked to look."""
        return guard.Guard(self.cluster(), {self.target.model_name: SERVICES})


@contextmanager
def stages(count: int, **options: Any) -> Iterator[list[Stage]]:
    """Targets with one MLflow server, ended with the block; options as `deploy_target.started` has them."""
    with tempfile.TemporaryDirectory(prefix="rollout-") as temporary, ExitStack() as kept:
        folder, port = Path(temporary), mlflow_server.free_port()
        (folder / "mlflow").mkdir()
        server = mlflow_server.start(folder / "mlflow", port)
        kept.callback(mlflow_server.stop, server)
        url = f"http://127.0.0.1:{port}"
        mlflow_server.wait_until_up(server, url, folder / "mlflow" / "server.log")
        found = []
        for number in range(count):
            target = kept.enter_context(started(folder / f"target-{number}", url, **options))
            target.deploy(target.register(ONE), "run-1")
            target.deploy(target.register(TWO), "run-2")
            recorder = kept.enter_context(Recorder(target.model_name, SERVICES))
            found.append(Stage(target, partial(_client, target), recorder))
        yield found


@contextmanager
def stage(**options: Any) -> Iterator[Stage]:
    """One target with its own MLflow server."""
    with stages(1, **options) as [one]:
        yield one


def _client(target: Target) -> Any:
    from kubernetes import config

    return config.new_client_from_config(config_file=str(target.local.kubeconfig(target.namespace)))


def guarding(one: Stage, seconds: float = 0.2) -> AbstractContextManager[None]:
    """A guard that looks again and again, beside what a block does."""
    guards = one.guard()

    def look(ended: threading.Event) -> None:
        while not ended.wait(seconds):
            guards.look(tekton.utcnow())

    return beside(look)


def wait_for(what: Callable[[], bool], seconds: float) -> float:
    """Seconds until something holds; inf where it does not in time."""
    began = time.monotonic()
    while not what():
        if time.monotonic() - began > seconds:
            return float("inf")
        time.sleep(0.05)
    return time.monotonic() - began
