"""A predictor that costs next to nothing: it answers as the catalog's do, and errs, dawdles and strays as it is told.

Runs in the pods of the lab's groups of bench_rollout.py, in the image of the operations' programs.

Reads    MODEL_DIGEST MODEL_VERSION TRACK, PORT (default 8080)
Answers  GET /v2/models/<name>, /domain, /predict-temperature, /metrics, with the catalog's headers and metric names;
         POST /behave?errors=0.05&seconds=0.02&slow=2&residual=3 tells it what to do to those who ask for a temperature
Exit     on SIGTERM
"""

from __future__ import annotations

import asyncio
import bisect
import json
import os
import random
import signal
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import accumulate
from urllib.parse import parse_qsl, urlsplit

from isotherm import contract

BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 10.0)
# Spread (standard deviation of the logarithm) of times and of residuals; the median of a request's mean r2, and the
# bound over which the predictors count one.
TIME_SPREAD, RESIDUAL_SPREAD = 0.25, 0.5
RESIDUAL_MEDIAN, RESIDUAL_LIMIT = 3e-5, 1e-4
Headers = Mapping[str, str]


@dataclass(frozen=True)
class Behaviour:
    """What befalls a request: the share of errors, the median of its time, and factors of its time and residual."""

    errors: float = 0.0
    seconds: float = 0.0
    slow: float = 1.0
    residual: float = 1.0


@dataclass
class Model:
    """One model with its counters."""

    digest: str
    version: str
    track: str
    behaviour: Behaviour = field(default_factory=Behaviour)
    counts: Counter[str] = field(default_factory=Counter)
    times: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))

    async def answer(self, method: str, target: str, headers: Headers) -> tuple[int, str, str]:
        """Status, content type and body."""
        url = urlsplit(target)
        if method == "POST" and url.path == "/behave":
            self.behaviour = replace(Behaviour(), **{name: float(value) for name, value in parse_qsl(url.query)})
            return _json(200, {})
        if url.path == "/predict-temperature":
            return await self._predict(probe=contract.HEADER_PROBE.lower() in headers)
        if url.path == "/metrics":
            return 200, "text/plain; version=0.0.4", self.metrics()
        if url.path == contract.PATH_DOMAIN:
            return _json(200, {axis: [0.0, 1.0] for axis in "xyt"})
        known = url.path == f"/v2/models/{contract.SERVED_MODEL_NAME}"
        return _json(200 if known else 404, {"name": contract.SERVED_MODEL_NAME})

    async def _predict(self, *, probe: bool) -> tuple[int, str, str]:
        how = self.behaviour
        seconds = how.seconds * how.slow * random.lognormvariate(0, TIME_SPREAD)
        if seconds:
            await asyncio.sleep(seconds)
        failed = random.random() < how.errors
        residual = RESIDUAL_MEDIAN * how.residual * random.lognormvariate(0, RESIDUAL_SPREAD)
        if probe:
            self.counts[contract.METRIC_PROBES] += 1
        else:
            self.counts[contract.METRIC_REQUESTS] += 1
            self.counts[contract.METRIC_ERRORS] += failed
            self.counts[contract.METRIC_REQUESTS_RESIDUAL] += not failed and residual > RESIDUAL_LIMIT
            # What it waited, not what the event loop took: a busy node must not look like a slow model.
            self.times[bisect.bisect_left(BUCKETS, seconds)] += 1
        return _json(500, {"error": "as told"}) if failed else _json(200, {"u(x,y,t)": 1.0, "residual": residual})

    def metrics(self) -> str:
        """The counters, as Prometheus reads them."""
        labels = f'version="{self.version}",track="{self.track}"'
        names = (
            contract.METRIC_REQUESTS, contract.METRIC_ERRORS, contract.METRIC_REQUESTS_OOB,
            contract.METRIC_REQUESTS_RESIDUAL, contract.METRIC_PROBES,
        )  # fmt: skip
        lines = [f"# TYPE {name} counter\n{name}{{{labels}}} {self.counts[name]}" for name in names]
        lines.append(f"# TYPE {contract.METRIC_LATENCY} histogram")
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), accumulate(self.times), strict=True):
            lines.append(f'{contract.METRIC_LATENCY}_bucket{{{labels},le="{bound}"}} {count}')
        return "\n".join([*lines, f"{contract.METRIC_LATENCY}_count{{{labels}}} {sum(self.times)}", ""])

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        with suppress(asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, ValueError, TypeError):
            last = False
            while not last:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip()
                first, *lines = head.split("\r\n")
                method, target, _ = first.split(" ")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                await reader.readexactly(int(headers.get("content-length", 0)))
                status, kind, body = await self.answer(method, target, headers)
                last = headers.get("connection", "").lower() == "close"
                writer.write(self._head(status, kind, len(body), last=last) + body.encode())
                await writer.drain()
        writer.close()

    def _head(self, status: int, kind: str, length: int, *, last: bool) -> bytes:
        lines = [
            f"HTTP/1.1 {status} as told", f"Content-Type: {kind}", f"Content-Length: {length}",
            f"{contract.HEADER_MODEL_DIGEST}: {self.digest}", f"{contract.HEADER_MODEL_VERSION}: {self.version}",
            f"Connection: {'close' if last else 'keep-alive'}",
        ]  # fmt: skip
        return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _json(status: int, content: object) -> tuple[int, str, str]:
    return status, "application/json", json.dumps(content)


async def main() -> None:
    """Serve until SIGTERM."""
    env = os.environ
    model = Model(env[contract.ENV_MODEL_DIGEST], env[contract.ENV_MODEL_VERSION], env[contract.ENV_TRACK])
    server = await asyncio.start_server(model.serve, None, int(env.get("PORT", contract.PREDICTOR_PORT)))
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    server.close()


if __name__ == "__main__":
    asyncio.run(main())
