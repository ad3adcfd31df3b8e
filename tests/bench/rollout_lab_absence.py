"""Rollouts on the lab whose judge has nothing to judge by: none may be promoted, each must end at its deadline (F5).

A group of rollout_lab.py. Clients ask both models through the router and the lab's Prometheus scrapes them; the Task's
own code asks a server in front of it, which hands on its answers, spoilt.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import httpx
from bars import Bar, at_most, exactly, keep
from lab_lanes import LANES, NAMESPACE, Lane, Row, Stage
from mlflow_server import free_port
from rollout_lab_live import STABLE, STEP, clients, rollout
from serving import Quiet, served
from waiting import eventually

from isotherm.deploy import prometheus
from isotherm.deploy.bake import Pace
from isotherm.deploy.canary import Settings
from isotherm.rollout.judge import Verdict

TRIES = 5
# Prometheus scrapes every 5 s: neither the interval can be cut, nor the expiry below three of them.
PACE, EXPIRY_SECONDS = Pace(5.0, 6, 30), 20.0
ANSWER_SECONDS = prometheus.ANSWER_SECONDS / 10
OFF = 300.0  # a clock that is five minutes off, s

Answer = dict[str, Any]  # of Prometheus, decoded
Sample = tuple[float, str]  # seconds since the epoch, value
Spoilt = Callable[[Answer], bytes]


def _samples(change: Callable[[float, str], Sample]) -> Spoilt:
    """Each sample as something else."""

    def spoilt(answer: Answer) -> bytes:
        for one in answer["data"]["result"]:
            one["values"] = [change(*sample) for sample in one["values"]]
        return json.dumps(answer).encode()

    return spoilt


def _empty(answer: Answer) -> bytes:
    answer["data"]["result"] = []
    return json.dumps(answer).encode()


def _another_model(answer: Answer) -> bytes:
    for one in answer["data"]["result"]:
        one["metric"]["version"] = "9.9.9"
    return json.dumps(answer).encode()


def _cut_short(answer: Answer) -> bytes:
    whole = json.dumps(answer).encode()
    return whole[: len(whole) // 2]


def _sound(answer: Answer) -> bytes:
    return json.dumps(answer).encode()


@dataclass(frozen=True)
class Case:
    """What befalls the answers of a rollout's Prometheus."""

    name: str
    spoilt: Spoilt = _sound
    status: int = 200
    drip_seconds: float = 0.0  # between two bytes of a body
    once: bool = False  # the first answer again and again


SILENT = Case("no traffic")
SOUND = Case("sound samples")
DOWN = Case("down")  # nobody listens
CASES = (
    Case("NaN", _samples(lambda at, _: (at, "NaN"))),
    Case("infinite", _samples(lambda at, _: (at, "+Inf"))),
    Case("empty", _empty),
    Case("stale", once=True),
    DOWN,
    Case("status 500", status=500),
    Case("slow", drip_seconds=0.2),
    Case("garbage", _cut_short),
    Case("another model's label", _another_model),
    Case("counters that start again at every look", _samples(lambda at, _: (at, "0"))),
)
CLOCKS = (
    Case("a clock 5 min slow", _samples(lambda at, value: (at - OFF, value))),
    Case("a clock 5 min fast", _samples(lambda at, value: (at + OFF, value))),
)


@dataclass
class Between:
    """A server in front of Prometheus: `/NAME/...` is asked of it as `/...`, and answered as NAME's case says."""

    url: str
    behind: str
    cases: dict[str, Case] = field(default_factory=dict)
    first: dict[tuple[str, str], bytes] = field(default_factory=dict)

    def of(self, name: str, case: Case) -> str:
        """Let a case befall what `name` asks from now on; returns the URL to ask."""
        self.cases[name] = case
        self.first = {key: body for key, body in self.first.items() if key[0] != name}
        return f"http://127.0.0.1:{free_port()}" if case is DOWN else f"{self.url}/{name}"

    def answer(self, path: str) -> tuple[Case, bytes]:
        """The case of who asks, and the body that it gets."""
        _, name, query = path.split("/", 2)
        case = self.cases[name]
        found = httpx.get(f"{self.behind}/{query}", timeout=10, trust_env=False).raise_for_status().json()
        body = case.spoilt(found)
        return case, self.first.setdefault((name, query), body) if case.once else body


@contextmanager
def between(behind: str) -> Iterator[Between]:
    """The server, for a block."""

    class Handler(Quiet):
        def do_GET(self) -> None:
            case, body = server_side.answer(self.path)
            self.send_response(case.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            try:
                for part in (body[i : i + 1] for i in range(len(body))) if case.drip_seconds else (body,):
                    self.wfile.write(part)
                    time.sleep(case.drip_seconds)
            except OSError:
                return  # who asked did not wait

    with served(Handler) as url:
        server_side = Between(url, behind)
        yield server_side


def absence(on: Stage) -> list[Bar]:
    """F5: twelve cases, five times each; and sound samples by the same way, which must be enough."""
    with (
        between(on.space.target.prometheus) as front,
        mock.patch.object(prometheus, "ANSWER_SECONDS", ANSWER_SECONDS),
    ):
        eventually(lambda: all(_scraped(on, lane) for lane in on.lanes), 90, every=1)

        def work(lane: Lane, case: Case) -> Row:
            settings = Settings(
                (STEP,), PACE, probes_per_second=0, latency_seconds=0.05, prometheus_url=front.of(lane.name, case)
            )
            return rollout(on, lane, case.name, STABLE, settings, expiry_seconds=EXPIRY_SECONDS)

        rows = on.spread([SILENT] * TRIES, work)
        with clients(on):
            tries = [case for number in range(TRIES) for case in (*CASES, CLOCKS[number % 2])]
            rows += on.spread(tries, work)
            control = on.spread([SOUND] * TRIES, work)
    return _bars(rows, control)


def _scraped(on: Stage, lane: Lane) -> bool:
    """Whether Prometheus knows both colours of a lane."""
    query = f'count(count by (pod) (pinn_requests_total{{namespace="{NAMESPACE}",pod=~"{lane.name}-.+"}}))'
    address = f"{on.space.target.prometheus}/api/v1/query"
    found = httpx.get(address, params={"query": query}, timeout=10, trust_env=False).json()["data"]["result"]
    return bool(found) and float(found[0]["value"][1]) >= 2


def _bars(rows: list[Row], control: list[Row]) -> list[Bar]:
    raw, count = keep("rollout-lab-absence", {"spoilt": rows, "sound": control}), len(rows)
    done = [row for row in rows if "verdict" in row]
    whole = len(done) == count and not any(row["wrong"] for row in rows)
    promoted = sum(row["verdict"] == Verdict.PROMOTE for row in done)
    late = max((row["seconds"] for row in done), default=0.0) - PACE.hold
    early = sum(row["verdict"] == Verdict.ROLLBACK and row["seconds"] < PACE.hold for row in done)
    sound = sum(row.get("verdict") == Verdict.PROMOTE and not row["wrong"] for row in control)
    return [
        at_most("promotions on absence on the lab (F5)", promoted if whole else None, 0, f"of {count}", n=count,
                raw=raw, note=f"12 cases, {TRIES} times each, {LANES} at once; {early} ended before the deadline"),
        at_most("end after the deadline on the lab (F5)", late if done else None, 2 * PACE.interval, "s", n=len(done),
                raw=raw, note=f"deadline {PACE.hold:g} s, expiry {EXPIRY_SECONDS:g} s, a look every "
                f"{PACE.interval:g} s as Prometheus scrapes, {ANSWER_SECONDS:g} s for its answer"),
        exactly("promotions on sound samples by the same way (F5)", sound, TRIES, "rollouts", raw=raw),
    ]  # fmt: skip
