"""Kubernetes Events on what holds the weights: what became of its traffic, where `oc describe` and the console show it.

Writes  Events (events.k8s.io/v1); one that is refused is only told: by then the traffic is where it should be
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from isotherm import kube, tekton
from isotherm.deploy import routes

SHIFTED, TAKEN_BACK = "Shifted", "ShiftTakenBack"
_ACTIONS = {SHIFTED: ("Normal", "Shift"), TAKEN_BACK: ("Warning", "TakeBack")}
NOTE_LIMIT = 1024  # characters; the API refuses a longer one


def tell(
    cluster: kube.Cluster,
    route: routes.Route,
    reason: str,
    message: str,
    now: datetime,
    *,
    reporter: str,
    say: Callable[[str], None],
) -> None:
    """Leave an Event on the object that holds the weights."""
    try:
        cluster.create(kube.EVENT, event(cluster.namespace, route, reason, message, now, reporter))
    except tekton.TaskError as error:
        say(f"warning: no Event: {tekton.last_line(error)}")


def event(namespace: str, route: routes.Route, reason: str, message: str, now: datetime, reporter: str) -> kube.Object:
    """An Event on what holds the weights, named after the write's resourceVersion, so that one write tells once."""
    kept = route.kind
    about = {"apiVersion": kept.api_version, "kind": kept.name, "name": route.name, "namespace": namespace}
    kind, action = _ACTIONS[reason]
    return {
        "apiVersion": kube.EVENT.api_version, "kind": kube.EVENT.name,
        "metadata": {"name": f"{route.name}.{route.resource_version}", "namespace": namespace},
        "regarding": about, "type": kind, "reason": reason, "action": action, "note": message[:NOTE_LIMIT],
        "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": f"isotherm.dev/{reporter}", "reportingInstance": reporter,
    }  # fmt: skip
