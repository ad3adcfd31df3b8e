"""Lost alerts: every firing alert that asks for a training has had a run that was admitted, or gets one.

Reads   Alertmanager (active alerts that are neither silenced nor inhibited, label `retrain="true"`, a known model), the
        model's Lease (done keys, cool-down), the runs of the alert's key
Writes  a run per firing, under the key that the listener gives it. A run that met a cool-down was not admitted, so its
        key is not done: once the cool-down is over and if the alert still fires, the next one is named `<key>-2`, with
        the same key, so that late deliveries of the same firing are still told.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, TypeAdapter, ValidationError

from isotherm import contract, kube, tekton
from isotherm.events import claims, keys
from isotherm.events.config import Alerts
from isotherm.events.runs import Runs, Wanted, finished

TIMEOUT_SECONDS = 10.0
MAX_ATTEMPTS = 50  # runs for one firing; each needs a cool-down of its own to have been refused
MAX_FAILURES = 3  # of them, runs that failed before they could claim the key


class _Alert(BaseModel):
    fingerprint: str
    startsAt: str
    labels: dict[str, str]


_ALERTS = TypeAdapter(list[_Alert])


def firing(url: str, token: str = "") -> list[_Alert]:
    """Ask Alertmanager. Raises `tekton.Unavailable` where it does not answer, or not as Alertmanager does."""
    import httpx

    query = {
        "active": "true", "silenced": "false", "inhibited": "false", "unprocessed": "false",
        "filter": f'{contract.LABEL_RETRAIN}="true"',
    }  # fmt: skip
    try:
        address, headers = f"{url.rstrip('/')}/api/v2/alerts", {"Authorization": f"Bearer {token}"} if token else {}
        answer = httpx.get(address, params=query, headers=headers, timeout=TIMEOUT_SECONDS)
        answer.raise_for_status()
        return _ALERTS.validate_json(answer.content)
    except (httpx.HTTPError, httpx.InvalidURL, ValidationError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise tekton.Unavailable(
            f"Alertmanager at {url} gave no usable answer: {reason}", remedy="the next pass tries again"
        ) from error


def reconcile(runs: Runs, source: Alerts, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
    """Create what the firing alerts lack; an alert that cannot be used is told and keeps none of the others."""
    problems = []
    for alert in firing(source.alertmanager_url, _token(source)):
        model = alert.labels.get("model", "")
        if model not in source.models or alert.labels.get(contract.LABEL_RETRAIN) != "true":
            continue
        try:
            _one(runs, source.template, model, alert, now())
        except tekton.BadInput as error:
            problems.append(error.what)
    if problems:
        raise tekton.BadInput(f"alerts that cannot be used: {'; '.join(problems)}", remedy="look at their rules")


def _token(source: Alerts) -> str:
    if not source.token_file:
        return ""
    try:
        return Path(source.token_file).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise tekton.BadInput(
            f"the token for {source.alertmanager_url} cannot be read from {source.token_file}",
            remedy="mount a Secret with it (event-sources), or take the source out",
        ) from error


def _one(runs: Runs, template: str, model: str, alert: _Alert, now: datetime) -> None:
    key = keys.alert(alert.fingerprint, alert.startsAt)
    ledger = claims.read(runs.cluster.get(kube.LEASE, contract.model_lease(model)))
    if ledger.of(key):
        return
    if until := ledger.cooling(now):
        runs.say(f"alert: {key} waits until {tekton.rfc3339(until)}, when model {model} has cooled down")
        return
    name = _free(runs, key)
    if name is None:
        return
    values = {"model": model, "fingerprint": alert.fingerprint, "started": key.rpartition("-")[2]}
    runs.create(Wanted(key, contract.EVENT_ALERT, template, values, name=name))


def _free(runs: Runs, key: str) -> str | None:
    """The name for the next run of a key; None while one is at work, or where too many ended without being admitted."""
    failures = 0
    for number in range(1, MAX_ATTEMPTS + 1):
        name = keys.nth(key, number)
        run = runs.get(name)
        if run is None:
            return name
        if not finished(run):
            return None
        failures += finished(run) == "False"
        if failures == MAX_FAILURES:
            break
    runs.say(f"alert: {key} had {number} runs, none of which was admitted ({failures} failed); look at their logs")
    return None
