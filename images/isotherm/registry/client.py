"""One way to reach MLflow: scheme check, credentials from files, a deadline in place of its client's four minutes.

Reads   MLFLOW_DEADLINE_SECONDS (default 60): how long to wait for a server that does not answer
Writes  MLflow's own variables in this process's environment, which is where its client looks for them
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from isotherm import tekton

if TYPE_CHECKING:
    from mlflow import MlflowClient

DEADLINE_VARIABLE = "MLFLOW_DEADLINE_SECONDS"
DEFAULT_DEADLINE_SECONDS = 60.0
_REPEATS = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
_CREDENTIALS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
# MLflow words a connection error, a timeout and a repeated 5xx alike; all else carries the server's own answer.
_NO_ANSWER = "API request to http"


def connect(uri: str, credentials_dir: Path | None = None) -> MlflowClient:
    """Return a client for the server at `uri` once it has answered; the fluent `mlflow.*` calls then use it too.

    `credentials_dir` is the optional workspace `mlflow-credentials`: file `token`, or files `username` and `password`.
    Raises `tekton.BadInput` on a URL that is not plain http(s), on unusable credentials and where the server refuses
    them; `tekton.Unavailable` when nothing answers within the deadline.
    """
    _check_uri(uri)
    deadline = _deadline_seconds()
    os.environ.update(_credentials(credentials_dir))
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported: measurements stay here
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.update({_REPEATS: "0", _TIMEOUT: str(max(1, math.ceil(deadline / 6)))})

    import mlflow

    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    client = mlflow.MlflowClient(uri)
    _wait_for_answer(client, uri, deadline)
    # From here a short outage is bridged by MLflow's own repeats, which wait 0, 2, 4, ... s: half the deadline in all.
    repeats = 1 + int(math.log2(deadline / 2 + 1))
    os.environ.update({_REPEATS: str(repeats), "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1"})
    return client


@contextmanager
def answers(uri: str) -> Iterator[None]:
    """Turn an outage or a refusal of the server within the block into one line.

    Use: `with answers(uri): client.log_batch(...)`; errors of other kinds pass unchanged.
    """
    from mlflow.exceptions import MlflowException

    start = time.monotonic()
    try:
        yield
    except MlflowException as error:
        if no_answer(error):
            raise _unavailable(uri, time.monotonic() - start, error) from error
        if error.get_http_status_code() in (401, 403):
            raise _refused(uri, error) from error
        raise


def download(client: MlflowClient, model_uri: str, path: str, folder: Path) -> Path:
    """Download `path` (a file or a folder, such as `extra_files`) of logged model `models:/m-...` under `folder`.

    MLflow's own `models:/m-.../path` is read as a stage of a registered model, hence the detour by the model's place.
    Returns the local path. Raises what MLflow and the artifact store raise.
    """
    import mlflow.artifacts

    place = client.get_logged_model(model_uri.removeprefix("models:/")).artifact_location
    return Path(mlflow.artifacts.download_artifacts(artifact_uri=f"{place}/{path}", dst_path=str(folder)))


@contextmanager
def no_repeats() -> Iterator[None]:
    """Send each request of the block once: a repeated POST could create the same thing twice."""
    before = os.environ.get(_REPEATS)
    os.environ[_REPEATS] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_REPEATS]
        else:
            os.environ[_REPEATS] = before


def no_answer(error: Exception) -> bool:
    """Whether the request got no usable answer, so that nobody knows if the server acted on it."""
    return str(error).startswith(_NO_ANSWER)


def _check_uri(uri: str) -> None:
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise tekton.BadInput(f"param mlflow-uri is {uri[:120]!r}", remedy="give an http:// or https:// URL")
    if parts.username or parts.password:
        raise tekton.BadInput(
            "param mlflow-uri carries credentials",
            remedy="bind workspace mlflow-credentials instead; every reader sees params",
        )


def _deadline_seconds() -> float:
    text = os.environ.get(DEADLINE_VARIABLE, "") or str(DEFAULT_DEADLINE_SECONDS)
    try:
        deadline = float(text)
    except ValueError:
        deadline = math.nan
    if not 1 <= deadline <= 3600:
        raise tekton.BadInput(f"{DEADLINE_VARIABLE} is {text[:40]!r}", remedy="give 1 to 3600 seconds")
    return deadline


def _credentials(folder: Path | None) -> dict[str, str]:
    """MLflow's variables for the credentials in `folder`; none without a folder: a person's own login still works."""
    if folder is None:
        return {}
    values = {
        name: (folder / name).read_text("utf-8").strip()
        for name in ("token", "username", "password")
        if (folder / name).is_file()
    }
    if values.get("token"):
        return {**dict.fromkeys(_CREDENTIALS, ""), "MLFLOW_TRACKING_TOKEN": values["token"]}
    if values.get("username") and values.get("password"):
        return dict(zip(_CREDENTIALS, (values["username"], values["password"], ""), strict=True))
    raise tekton.BadInput(
        f"workspace mlflow-credentials holds {sorted(values) or 'no file it should'}",
        remedy="give token, or username and password, none empty",
    )


def _wait_for_answer(client: MlflowClient, uri: str, deadline: float) -> None:
    from mlflow.exceptions import MlflowException
    from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_exponential

    attempts = Retrying(
        retry=retry_if_exception(no_answer),
        stop=stop_after_delay(deadline * 0.8),
        wait=wait_exponential(multiplier=0.25, max=5),
        reraise=True,
    )
    try:
        attempts(client.search_experiments, max_results=1)
    except MlflowException as error:
        if no_answer(error):
            raise _unavailable(uri, deadline, error) from error
        raise _refused(uri, error) from error


def _unavailable(uri: str, seconds: float, error: BaseException) -> tekton.Unavailable:
    return tekton.Unavailable(
        f"MLflow at {uri} did not answer within {seconds:.0f} s: {_root_cause(error)}",
        remedy="start the server or correct param mlflow-uri, then run again",
    )


def _refused(uri: str, error: BaseException) -> tekton.BadInput:
    return tekton.BadInput(
        f"MLflow at {uri} refused the request: {str(error)[:300]}",
        remedy="check workspace mlflow-credentials, the server's allowed hosts, and that the URL is MLflow's",
    )


def _root_cause(error: BaseException) -> str:
    """The innermost reason (`[Errno 111] Connection refused`), which MLflow, requests and urllib3 wrap four times."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return " ".join(str(error).split())[:200] or type(error).__name__
