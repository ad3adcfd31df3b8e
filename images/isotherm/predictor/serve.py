"""Serve one heat model over HTTP, on the KServe SDK: V1, V2, `/predict`, `/predict-temperature`, `/metrics`.

Reads   --model_dir, a verified model folder      docs/contracts.md, never a pickle
        MODEL_VERSION, MODEL_DIGEST, TRACK         who answers; another digest in the folder is refused before loading
        PREDICTION_LOG_DIR, HTTP_HOST              prediction log (empty: none), address to listen on
Writes  answers with the model's version and digest, one JSON line per event on stdout, the prediction log
Exit    0 after SIGTERM has drained; 2, 3 or 4 and one line where it cannot start (isotherm.tekton)
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import re
import signal
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isotherm import contract, tekton

if TYPE_CHECKING:
    from isotherm.predictor.prediction_log import PredictionLog

GRACE_SECONDS = 25  # below Kubernetes' 30 s before SIGKILL
KEEP_ALIVE_SECONDS = 65  # longer than the router keeps an idle connection, or it would meet a closed one
_ENVIRONMENT = {
    contract.ENV_MODEL_VERSION: (re.compile(r"[0-9]+\.[0-9]+\.[0-9]+"), "give the semantic version, such as 1.3.0"),
    contract.ENV_MODEL_DIGEST: (re.compile(r"[A-Za-z0-9:._-]{1,200}"), "give the model_digest that was registered"),
    contract.ENV_TRACK: (re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"), "give the colour: blue or green"),
}
_logger = logging.getLogger("isotherm.predictor")


class JsonLines(logging.Formatter):
    """One JSON object per record, on one line; `extra={"event": {...}}` adds its members."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {"time": tekton.rfc3339(tekton.utcnow()), "level": record.levelname.lower()}
        line |= {"logger": record.name, "message": tekton.redact(record.getMessage()), **getattr(record, "event", {})}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; the names are KServe's own."""
    parser = argparse.ArgumentParser(
        prog="isotherm.predictor.serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shown = " (default: %(default)s)"
    parser.add_argument("--model_name", default=contract.SERVED_MODEL_NAME, help="name in the V1 and V2 URLs" + shown)
    parser.add_argument("--model_dir", type=Path, default=Path(contract.MODEL_MOUNT), help="model folder" + shown)
    parser.add_argument("--http_port", type=int, default=contract.PREDICTOR_PORT, help="port, 0: any free one" + shown)
    return parser.parse_args(arguments)


def run(model_name: str, model_dir: Path, http_port: int) -> None:
    """Check and load the model, then serve until SIGTERM; raises `tekton.TaskError` where it cannot start."""
    started = time.perf_counter()
    env = tekton.environment(model_version=str, model_digest=str, track=str)
    for name, (pattern, remedy) in _ENVIRONMENT.items():
        if not pattern.fullmatch(value := getattr(env, name.lower())):
            raise tekton.BadInput(f"{name} is {value[:80]!r}", remedy=remedy)
    listener = _listen(os.environ.get(contract.ENV_HTTP_HOST) or "0.0.0.0", http_port)  # noqa: S104 (a pod's own address)

    from isotherm import bundle
    from isotherm.predictor import model

    heat = model.HeatModel(bundle.load(model_dir, env.model_digest))

    import uvicorn

    from isotherm.predictor import app, metrics, service

    data_version = heat.metadata.data_version
    identity = service.Identity(model_name, env.model_version, env.model_digest, data_version, env.track)
    counted = metrics.Metrics(app.REGISTRY, version=env.model_version, track=env.track, boundary=heat.has_boundary)
    log = _prediction_log(identity.model_version, identity.track, counted.dropped)
    config = uvicorn.Config(
        app.build(service.Service(heat, identity, counted, log), counted),
        # uvicorn adds them to every answer, its own ones to malformed requests included.
        headers=[(contract.HEADER_MODEL_VERSION, env.model_version), (contract.HEADER_MODEL_DIGEST, env.model_digest)],
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    event = {**vars(identity), "port": listener.getsockname()[1], "seconds": round(time.perf_counter() - started, 3)}
    # uvicorn drains on a signal and then raises it again for the handler that it found here.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    # What the start left behind lives for good: without this a full collection walks the SDK's objects in mid-request.
    gc.collect()
    gc.freeze()
    listener.listen(2048)
    _logger.info("serving", extra={"event": event})
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        if log:
            log.close()
        _logger.info("stopped")


def _stop(*_: object) -> None:
    raise SystemExit(0)


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        what = f"port {port} on {host} cannot be taken ({error})"
        raise tekton.Unavailable(what, remedy="end what holds it or give another --http_port") from error
    return listener


def _prediction_log(version: str, track: str, dropped: Callable[[int], None]) -> PredictionLog | None:
    from isotherm.predictor.prediction_log import PredictionLog

    folder = os.environ.get(contract.ENV_PREDICTION_LOG_DIR, f"{tempfile.gettempdir()}/isotherm-predictions")
    if not folder:
        return None
    try:
        return PredictionLog(Path(folder), version=version, track=track, dropped=dropped)
    except OSError as error:
        # An answer without a log line is worth more than no answer.
        _logger.error("no prediction log (%s): set PREDICTION_LOG_DIR to a folder that can be written", error)
        return None


def _log_to_stdout() -> None:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for noisy in ("kserve", "uvicorn.error"):  # KServe prints the timing of every request
        logging.getLogger(noisy).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message="ORJSONResponse is deprecated")  # KServe's use of it


def main() -> int:
    """Parse, serve, and turn a refusal to start into a JSON line, a last line and an exit code."""
    arguments = parse()
    _log_to_stdout()

    def serve() -> None:
        try:
            run(**vars(arguments))
        except tekton.TaskError as error:
            _logger.error("refused to start", extra={"event": {"reason": error.line()}})
            raise

    return tekton.main(serve)


if __name__ == "__main__":
    raise SystemExit(main())
