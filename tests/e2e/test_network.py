"""Who reaches whom among the events, with and without something that enforces NetworkPolicies."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from lab import golang, lifecycle, mlflow, policies
from lab.part import Lab
from waiting import eventually

from e2e import reach
from e2e.cluster import Space
from e2e.events import INSIDE, PUBLIC, Events

SENDER = "e2e-sender"
STRANGER = "e2e-stranger"
PROBE = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3).close()
except OSError as error:
    print(error); sys.exit(7)
print("reached")
"""
SAFE = {
    "runAsNonRoot": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}  # fmt: skip


@pytest.fixture(scope="module")
def probes(events: Events) -> Iterator[dict[str, Space]]:
    """A pod that only waits, in each place from which somebody may knock."""
    if events.target.mlflow != mlflow.URL:
        pytest.skip("the lab's own network is what is tried here")
    if not golang.built(Lab(), ["kube-router"]):
        pytest.skip("kube-router is not built (make lab PARTS=network-policies)")
    places = {
        "inside": events,
        "clock": events,
        "sender": Space(events.target, SENDER),
        "stranger": Space(events.target, STRANGER),
    }
    with reach.namespace(SENDER, {"isotherm.dev/sends-events": "true"}), reach.namespace(STRANGER):
        for name, space in places.items():
            labels = {"app.kubernetes.io/name": "event-schedule" if name == "clock" else f"probe-{name}"}
            wait = {
                "name": "wait",
                "image": "isotherm/ops:0.1.0",
                "command": ["sleep", "3600"],
                "securityContext": SAFE,
            }
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"probe-{name}", "labels": labels}}
            eventually(lambda space=space: space.kubectl("get", "serviceaccount", "default", check=False))
            space.apply([{**pod, "spec": {"containers": [wait], "terminationGracePeriodSeconds": 1}}])
        for name, space in places.items():
            space.kubectl("wait", f"pod/probe-{name}", "--for=condition=Ready", "--timeout=90s")
        yield places
        for name in ("inside", "clock"):
            events.kubectl("delete", "pod", f"probe-{name}", "--wait=false")


def reached(probes: dict[str, Space], name: str, address: str, port: int) -> bool:
    """Whether a connection can be made from a probe."""
    space = probes[name]
    return "reached" in space.kubectl(
        "exec", f"probe-{name}", "--", "python", "-c", PROBE, address, str(port), check=False
    )


def test_the_policies_hold_where_they_are_enforced_and_only_there(events: Events, probes: dict[str, Space]) -> None:
    listener = events.get("service", "el-git")["spec"]["clusterIP"]
    interceptor = events.get("service", "event-interceptor")["spec"]["clusterIP"]
    wanted = {
        ("inside", listener, 8080): False, ("stranger", listener, 8080): False, ("sender", listener, 8080): False,
        ("inside", interceptor, 8443): False, ("stranger", interceptor, 8443): False,
        ("sender", events.door, INSIDE): True, ("clock", events.door, INSIDE): True,
        ("inside", events.door, INSIDE): False, ("stranger", events.door, INSIDE): False,
        ("stranger", events.door, PUBLIC): False, ("sender", events.door, PUBLIC): False,
    }  # fmt: skip

    def seen() -> dict[tuple[str, str, int], bool]:
        return {way: reached(probes, *way) for way in wanted}

    lab = Lab()
    assert set(seen().values()) == {True}, "without an enforcer nothing is kept away: a policy alone proves nothing"
    try:
        lifecycle.up(lab, [policies.PART.name])
        eventually(lambda: seen() == wanted, 60, every=2)
        events.send("schedule", [("scheduled", "202611240001")])
        name = "schedule-inverse-heat-pinn-202611240001"
        eventually(lambda: events.matching(name), 30, every=1)
    finally:
        policies.stop(lab)
    eventually(lambda: set(seen().values()) == {True}, 30, every=2)
    assert json.loads(events.kubectl("get", "networkpolicies", "-o", "json"))["items"]
