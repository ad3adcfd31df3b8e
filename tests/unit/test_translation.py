"""Recorded objects of the API against the HAProxy configuration that OpenShift's router makes of them."""

from __future__ import annotations

from typing import Any

import pytest

from isotherm_local import admission
from isotherm_local.translation import Backend, Listeners, Snapshot, endpoints, render, translate

LOCAL, LAB = Listeners(8080), Listeners(80, 443, "10.88.0.1")
ONE, TWO = "10.0.0.1", "10.0.0.2"
PORTS = [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}]


def slice_of(service: str, *entries: dict[str, Any], name: str = "a", **changes: Any) -> dict[str, Any]:
    """An EndpointSlice as kube-controller-manager writes it."""
    return {
        "metadata": {
            "name": f"{service}-{name}", "namespace": "n",
            "labels": {
                "kubernetes.io/service-name": service,
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            },
        },
        "addressType": "IPv4",
        "endpoints": list(entries),
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    } | changes  # fmt: skip


def endpoint(address: str, ready: bool | None = True) -> dict[str, Any]:
    conditions = {"ready": ready, "serving": ready, "terminating": False}
    return {"addresses": [address], "conditions": {k: v for k, v in conditions.items() if v is not None}}


def route_of(name: str, created: str = "2026-01-01T00:00:00Z", **spec: Any) -> dict[str, Any]:
    made = {
        "host": f"{name}.example",
        "to": {"kind": "Service", "name": "blue", "weight": 100},
        "wildcardPolicy": "None",
    }
    metadata = {"name": name, "namespace": "n", "uid": f"uid-{name}", "creationTimestamp": created}
    return {"metadata": metadata, "spec": made | spec}


def service_of(name: str, ports: list[dict[str, Any]] = PORTS) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "n"}, "spec": {"ports": ports}}


@pytest.mark.parametrize(
    ("slices", "found"),
    [
        pytest.param([slice_of("blue", endpoint(TWO), endpoint(ONE))], [ONE, TWO], id="order"),
        pytest.param([slice_of("blue", endpoint(ONE, False), endpoint(TWO))], [TWO], id="not ready"),
        pytest.param([slice_of("blue", endpoint(ONE, None))], [ONE], id="unknown counts as ready"),
        pytest.param([slice_of("blue", {"addresses": [ONE]})], [ONE], id="no conditions"),
        pytest.param([slice_of("blue", endpoint(ONE), name=n) for n in "ab"], [ONE], id="in two slices"),
        pytest.param([slice_of("green", endpoint(ONE))], [], id="another Service's"),
        pytest.param([slice_of("blue", endpoint("x.example"), addressType="FQDN")], [], id="a name, no address"),
        pytest.param([slice_of("blue", endpoints=None, ports=None)], [], id="empty slice"),
    ],
)
def test_servers_are_the_ready_endpoints_once_each(slices: list[dict[str, Any]], found: list[str]) -> None:
    assert endpoints(slices, "blue", "http", PORTS) == [("blue", f"blue:{a}:8080", a, 8080) for a in found]


@pytest.mark.parametrize(
    ("wanted", "declared", "in_slice", "number"),
    [
        (None, PORTS, [{"name": "http", "port": 8080}], 8080),
        (None, [*PORTS, {"name": "other", "port": 90}], [{"name": "other", "port": 9}, {"name": "http", "port": 8}], 8),
        ("metrics", PORTS, [{"name": "http", "port": 8080}, {"name": "metrics", "port": 9090}], 9090),
        (9090, PORTS, [{"name": "http", "port": 8080}, {"name": "metrics", "port": 9090}], 9090),
        (8080, PORTS, [{"name": "http", "port": 41234}], 41234),
        ("https", PORTS, [{"name": "http", "port": 8080}], None),
        (None, [{"port": 80, "targetPort": 8080}], [{"name": "", "port": 8080}], 8080),
        (None, [], [{"name": "http", "port": 8080}], None),
    ],
    ids=["first", "first of two", "by name", "by number", "by target", "no such", "unnamed", "no Service"],
)
def test_the_port_is_the_one_that_the_route_names(
    wanted: Any, declared: Any, in_slice: Any, number: int | None
) -> None:
    found = endpoints([slice_of("blue", endpoint(ONE), ports=in_slice)], "blue", wanted, declared)
    assert [port for *_, port in found] == ([] if number is None else [number])


def test_a_route_with_two_services_becomes_weighted_servers() -> None:
    slices = [slice_of("blue", endpoint(ONE)), slice_of("green", endpoint(TWO), endpoint("10.0.0.3"))]
    route = route_of("heat", alternateBackends=[{"kind": "Service", "name": "green", "weight": 25}])
    route["metadata"]["annotations"] = {"haproxy.router.openshift.io/disable_cookies": "true"}
    [backend] = translate(Snapshot([route], [service_of("blue"), service_of("green")], slices))
    assert [line.strip() for line in backend.lines(LAB)] == [
        "backend be_http:n:heat",
        "balance roundrobin",
        "option forwardfor",
        "http-request add-header X-Forwarded-Host %[req.hdr(host)]",
        "http-request add-header X-Forwarded-Proto http if !{ ssl_fc }",
        "http-request add-header X-Forwarded-Proto https if { ssl_fc }",
        "server blue:10.0.0.1:8080 10.0.0.1:8080 weight 256 check inter 5000ms",
        "server green:10.0.0.2:8080 10.0.0.2:8080 weight 32 check inter 5000ms",
        "server green:10.0.0.3:8080 10.0.0.3:8080 weight 32 check inter 5000ms",
    ]


def test_a_service_of_weight_0_keeps_its_servers_and_no_endpoint_none() -> None:
    slices = [slice_of("blue", endpoint(ONE)), slice_of("green", endpoint(TWO))]
    route = route_of("heat", alternateBackends=[{"kind": "Service", "name": "green", "weight": 0}])
    services = [service_of("blue"), service_of("green")]
    [backend] = translate(Snapshot([route], services, slices))
    servers = [line.split() for line in backend.lines(LAB) if line.startswith("  server")]
    assert [(words[1], words[-2:]) for words in servers] == [
        ("blue:10.0.0.1:8080", ["weight", "1"]),
        ("green:10.0.0.2:8080", ["weight", "0"]),
    ]
    assert all("cookie" in words for words in servers)
    [empty] = translate(Snapshot([route], services, []))
    assert not [line for line in empty.lines(LAB) if line.startswith("  server")]


@pytest.mark.parametrize(
    ("edge", "insecure", "listeners", "maps", "cookie"),
    [
        (False, "None", LAB, {"hosts.map"}, "httponly"),
        (True, "None", LAB, {"edge.map"}, "httponly secure attr SameSite=None"),
        (True, "Redirect", LAB, {"edge.map", "redirects.map"}, "httponly secure attr SameSite=None"),
        (True, "Allow", LAB, {"edge.map", "hosts.map"}, "httponly"),
        (True, "Redirect", LOCAL, {"hosts.map"}, "httponly"),
    ],
    ids=["plain", "None", "Redirect", "Allow", "no TLS port: plain HTTP"],
)
def test_termination_decides_where_a_host_is_found(
    edge: bool, insecure: str, listeners: Listeners, maps: set[str], cookie: str
) -> None:
    backend = Backend("be:n:heat", "heat.example", {"blue": 1}, {}, [], edge, insecure)
    made = render([backend], listeners)
    assert {name for name, text in made.maps.items() if text == "heat.example be:n:heat\n"} == maps
    assert "".join(made.maps[name] for name in set(made.maps) - maps) == ""
    [line] = [line for line in made.text.splitlines() if line.startswith("  cookie ")]
    assert line.endswith(f" insert indirect nocache {cookie}")


@pytest.mark.parametrize(("named", "kept"), [("session-1", True), ("a b", False), ("x;y", False), ("", False)])
def test_a_cookie_name_is_taken_only_if_it_is_one(named: str, kept: bool) -> None:
    backend = Backend("be:n:heat", "h", {"blue": 1}, {"router.openshift.io/cookie_name": named}, [])
    [name] = [line.split()[1] for line in backend.lines(LOCAL) if line.startswith("  cookie ")]
    assert (name == named) is kept


def test_the_generation_changes_with_everything_that_haproxy_reads_and_with_nothing_else() -> None:
    backend = Backend("be:n:heat", "heat.example", {"blue": 1}, {}, [("blue", "s", ONE, 80)])
    renamed = Backend("be:n:heat", "other.example", {"blue": 1}, {}, backend.servers)
    others = [render([renamed], LOCAL), render([], LOCAL), render([backend], Listeners(8081)), render([backend], LAB)]
    first = render([backend], LOCAL).generation
    assert len({first, *(other.generation for other in others)}) == 5
    assert render([backend], LOCAL).generation == first


def test_of_two_claims_to_a_host_the_older_wins_and_a_refused_one_claims_nothing() -> None:
    refused = route_of("path", "2024-01-01T00:00:00Z", host="heat.example", path="/v1")
    older = route_of("older", "2025-01-01T00:00:00Z", host="heat.example")
    younger = route_of("younger", host="heat.example")
    verdicts = admission.decide([younger, older, refused])
    assert {uid: (v.admitted, v.reason) for uid, v in verdicts.items()} == {
        "uid-path": (False, "NotSupported"),
        "uid-older": (True, ""),
        "uid-younger": (False, "HostAlreadyClaimed"),
    }
    assert [b.name for b in translate(Snapshot([younger, older, refused], [], []))] == ["be_http:n:older"]


def test_a_status_keeps_its_time_until_its_condition_changes() -> None:
    route = route_of("heat")
    route["status"] = {"ingress": admission.ingress(route, admission.Verdict(True), "first")}
    assert admission.ingress(route, admission.Verdict(True), "second") == route["status"]["ingress"]
    [changed] = admission.ingress(route, admission.Verdict(False, "HostAlreadyClaimed", "why"), "second")
    assert changed["conditions"] == [
        {
            "type": "Admitted",
            "status": "False",
            "reason": "HostAlreadyClaimed",
            "message": "why",
            "lastTransitionTime": "second",
        }
    ]


@pytest.mark.parametrize("host", ["", "Heat.example", "a b", "x" * 64 + ".example", "-a.example", "a\nb.example"])
def test_a_text_that_is_no_host_is_never_written_into_a_map(host: str) -> None:
    route = route_of("heat", host=host)
    assert admission.decide([route])["uid-heat"].reason == "InvalidHost"
    assert translate(Snapshot([route], [], [])) == []
