"""A predictor without a model, run as a pod of image pinn-api by `argo_stage.py`: it fails at a rate that it is told.

Reads   MODEL_VERSION MODEL_DIGEST TRACK; `PUT /failing?rate=0.05&seed=1` while it serves
Serves  on port 8080 what a canary's judge asks of a predictor: /predict-temperature (200, or 500 at the rate),
        /domain, /v2/models/NAME, /v2/health/ready, and /metrics as the predictor's own class counts them

The n-th request of a client fails or not by the seed alone, so that two judges can be shown the same canary.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from prometheus_client import CollectorRegistry, generate_latest

from isotherm import contract
from isotherm.predictor.metrics import PROBING, Metrics

HEADERS = {
    contract.HEADER_MODEL_VERSION: os.environ[contract.ENV_MODEL_VERSION],
    contract.HEADER_MODEL_DIGEST: os.environ[contract.ENV_MODEL_DIGEST],
}
REGISTRY = CollectorRegistry()
METRICS = Metrics(
    REGISTRY, version=os.environ[contract.ENV_MODEL_VERSION], track=os.environ[contract.ENV_TRACK], boundary=False
)
DOMAIN = {axis: [0.0, 1.0] for axis in ("x", "y", "t")}


class Failing:
    """Which requests fail; those of clients and of probes are drawn apart."""

    def __init__(self, rate: float, seed: int) -> None:
        self._lock = threading.Lock()
        self._rate = rate
        self._rngs = {probe: random.Random(2 * seed + probe) for probe in (False, True)}

    def next(self, probe: bool) -> bool:
        """Whether the next request of its kind fails."""
        with self._lock:
            return self._rngs[probe].random() < self._rate


FAILING = [Failing(0.0, 0)]


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one segment: the second of two would wait for the first one's acknowledgement

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/metrics":
            self._answer(200, generate_latest(REGISTRY))
        elif path == "/predict-temperature":
            self._predict()
        else:
            self._answer(200, json.dumps(DOMAIN if path == contract.PATH_DOMAIN else {}).encode())

    def do_PUT(self) -> None:
        given = parse_qs(urlsplit(self.path).query)
        FAILING[0] = Failing(float(given["rate"][0]), int(given["seed"][0]))
        self._answer(200, b"{}")

    def _predict(self) -> None:
        began, probe = time.perf_counter(), contract.HEADER_PROBE in self.headers
        bad = FAILING[0].next(probe)
        PROBING.set(probe)
        # Counted before it is sent: what a client has seen is in the metrics.
        METRICS.request(500 if bad else 200, time.perf_counter() - began)
        self._answer(500 if bad else 200, b"{}" if bad else b'{"u(x,y,t)": 0.5}')

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """Ends with its process, whatever connections are open."""

    daemon_threads = True
    request_queue_size = 128


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    Server(("", contract.PREDICTOR_PORT), Handler).serve_forever()
