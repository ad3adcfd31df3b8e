"""The steps of a canary: what is judged at each of them, where the counts come from, and what keeps the shift alive.

Reads   both colours' counters, from their endpoints or from Prometheus; probes of its own
Writes  a decision log per step below the reports
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from isotherm import contract, kube, tekton
from isotherm.deploy import bake, counters, probes, routes
from isotherm.deploy.bake import Baked, Models, Pace, Source, Step
from isotherm.deploy.pending import Pending
from isotherm.deploy.preconditions import Checked, Request
from isotherm.deploy.prometheus import Prometheus
from isotherm.rollout.judge import Plan


@dataclass(frozen=True)
class Settings:
    """How a canary is judged: the Task's params, checked."""

    steps: tuple[int, ...] = ()  # percent of the traffic, rising; none: no canary
    pace: Pace = field(default_factory=Pace)
    max_error_rate: float = 0.01  # no reason for a rollback, whatever the stable model does
    max_ratio: float = 5.0  # this many times the stable model's rate is too much
    latency_seconds: float = 0.25  # a slower answer counts against the model
    probes_per_second: float = 5.0  # to each colour; 0: clients alone are judged
    prometheus_url: str = ""  # empty: the endpoints themselves are asked
    prometheus_token: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if any(not 0 < step < 100 for step in self.steps) or list(self.steps) != sorted(set(self.steps)):
            given = ",".join(map(str, self.steps))
            raise tekton.BadInput(
                f"param step-weights is {given!r}", remedy="give rising percents from 1 to 99, such as 10,25,50"
            )
        if self.latency_seconds <= 0 or self.probes_per_second < 0:
            raise tekton.BadInput(
                "param latency-seconds must be above 0 and probes-per-second at least 0", remedy="give such as 0.25, 5"
            )
        self.plan()

    def require_fit(self, request: Request) -> None:
        """Refuse steps that do not lead up to what is asked for (`tekton.BadInput`)."""
        if not self.steps:
            return
        if request.rollback or self.steps[-1] >= request.weight:
            raise tekton.BadInput(
                f"param step-weights ends at {self.steps[-1]}", remedy="stay below param weight; empty for a rollback"
            )
        if self.pace.interval > request.expiry_seconds / 3:
            raise tekton.BadInput(
                f"param interval-seconds is {self.pace.interval:g}, expiry-seconds {request.expiry_seconds:g}",
                remedy="look at least three times in an expiry",
            )

    def plan(self) -> Plan:
        """What is judged. A canary is promoted on probes where there are some, else on what clients asked."""
        clients = self.probes_per_second == 0
        named = {counters.ERRORS: clients, counters.LATENCY: clients, **dict.fromkeys(counters.OF_MODEL, False)}
        if not clients:
            named |= {probes.ERRORS: True, probes.LATENCY: True}
        return bake.plan(named, self.max_error_rate, self.max_ratio)


def token(folder: str) -> str:
    """The bearer token of workspace `prometheus-credentials`; empty without the workspace."""
    if not folder:
        return ""
    try:
        return (Path(folder) / "token").read_text("utf-8").strip()
    except OSError as error:
        raise tekton.BadInput("workspace prometheus-credentials holds no file token", remedy="give one") from error


def steps(text: str) -> tuple[int, ...]:
    """Read `10,25,50`. Raises `tekton.BadInput`."""
    try:
        return tuple(int(part) for part in text.split(",")) if text.strip() else ()
    except ValueError as error:
        raise tekton.BadInput(
            f"param step-weights is {text[:80]!r}", remedy="give percents with commas, such as 10,25,50"
        ) from error


class Canary:
    """The judge's eyes for one shift: the same sources and probes at every step."""

    def __init__(
        self,
        settings: Settings,
        cluster: kube.Cluster,
        services: routes.Services,
        checked: Checked,
        reports: Path,
        say: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._reports = reports / contract.REPORT_DECISIONS
        self._say = say
        target = checked.plan.target
        digests = {colour: behind.digest for colour, behind in checked.colours.items()}
        self._models = Models(target, routes.other(target), digests)
        latency = settings.latency_seconds
        self._probes = (
            probes.Probes(
                cluster, services, per_second=settings.probes_per_second, latency_seconds=latency,
                look_seconds=settings.pace.interval,
            )
            if settings.probes_per_second
            else None
        )  # fmt: skip
        source: Source = counters.Endpoints(cluster, services, latency)
        if settings.prometheus_url:
            models = {
                colour: (behind.deployment, behind.semver, behind.digest) for colour, behind in checked.colours.items()
            }
            source = Prometheus(
                settings.prometheus_url, cluster.namespace, models, latency_seconds=latency,
                token=settings.prometheus_token,
            )  # fmt: skip
        self._sources: list[Source] = [source, *([self._probes] if self._probes else [])]

    def step(self, weight: int, pending: Pending) -> Baked:
        """Judge the canary at this share until the verdict stands. Raises `pending.Interfered`."""

        def each(seconds: float) -> None:
            pending.look()
            pending()
            if self._probes:
                self._probes.send(seconds)

        log = self._reports / f"{weight:03}.jsonl"
        step = Step(
            self._settings.plan(), self._settings.pace, self._models, self._sources, log, say=self._say, weight=weight
        )
        self._say(f"judging {self._models.canary} at {weight} % beside {self._models.stable}")
        return step.run(each)

    def __enter__(self) -> Canary:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._probes:
            self._probes.close()
