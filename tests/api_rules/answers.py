"""Requests to which both APIs give the same answer: code and reason, never the text of a message.

A request whose answers differ on purpose stands in `differences`.
"""

from __future__ import annotations

from api_rules.requests import (
    ISVC,
    PORTS,
    RUNTIME,
    TO,
    Ask,
    get,
    make,
    merge,
    merge_route,
    post,
    route,
    send,
    spec,
    then,
    to,
)
from isotherm_local.kinds import CONFIG_MAP, EVENT, INFERENCE_SERVICE, LEASE, ROUTE, SERVICE, SERVING_RUNTIME

CREATED, OK = "201", "200"
BAD, INVALID, CONFLICT = "400 BadRequest", "422 Invalid", "409 Conflict"
TAKEN, MISSING, MEDIA = "409 AlreadyExists", "404 NotFound", "415 UnsupportedMediaType"
METHOD = "405 MethodNotAllowed"
LONG = "x" * 260
MICRO = "2026-11-23T15:00:00.000000Z"


def _twice() -> dict[str, tuple[Ask, str]]:
    contents = {
        CONFIG_MAP: {}, LEASE: {"spec": {}}, SERVICE: {"spec": PORTS}, ROUTE: {"spec": TO},
        INFERENCE_SERVICE: {"spec": ISVC}, SERVING_RUNTIME: {"spec": RUNTIME},
    }  # fmt: skip
    return {f"create {kind.kind} twice": (then(kind, c, make(kind, **c)), TAKEN) for kind, c in contents.items()}


def _names() -> dict[str, tuple[Ask, str]]:
    rows: dict[str, tuple[Ask, str]] = {}
    for kind, content in ((CONFIG_MAP, {}), (ROUTE, {"spec": TO})):
        for name in ("../../x", "a/b", "UPPER", "-x", LONG, "", "a..b"):
            rows[f"name {name[:8]!r} of a {kind.kind}"] = make(kind, {"name": name}, **content), INVALID
        rows[f"number as the name of a {kind.kind}"] = make(kind, {"name": 5}, **content), BAD
    for name in ("x" * 64, "a.b", "1a"):
        rows[f"name {name[:8]!r} of a Service"] = make(SERVICE, {"name": name}, spec=PORTS), INVALID
        if len(name) < 64:
            rows[f"name {name!r} of a Lease"] = make(LEASE, {"name": name}), CREATED
    return rows


def _selectors() -> dict[str, tuple[Ask, str]]:
    labels = {
        OK: ("!a", "a", "a!=b", "a notin (b,c)", "a==b", "a=", "a in ()", " a = b ", "x.y/a=b"),
        BAD: ("a in b", "a+in+b", "a=b=c", "a in (b", ",", "a=b c", "-a=b", "a,,b", "a=b,"),
    }
    name, involved = "metadata.name", "involvedObject"
    fields = {
        (CONFIG_MAP, OK): (f"{name}=a", f"{name}!=a", f"{name}==a", "metadata.namespace=b", ",", f"{name}=a,"),
        (CONFIG_MAP, BAD): ("metadata.uid=a", "reason=x", "type=x", f"{involved}.name=x", "spec.x=1", name),
        (EVENT, OK): ("reason=x", "type=x", f"{involved}.name=x", f"{involved}.kind!=x", f"{involved}.uid=1"),
        (EVENT, BAD): (f"{involved}.foo=x", "message=x"),
        (ROUTE, OK): (f"{name}=a", "metadata.namespace=a"),
        (ROUTE, BAD): ("metadata.uid=a", "spec.host=a", "spec.to.name=a", "reason=x"),
    }
    rows = {f"label selector {s!r}": (get(ROUTE, labelSelector=s), a) for a, given in labels.items() for s in given}
    for (kind, answer), given in fields.items():
        for selector in given:
            rows[f"field selector {selector!r} of {kind.plural}"] = get(kind, fieldSelector=selector), answer
    return rows


METADATA = {
    "label with a space": (make(CONFIG_MAP, {"labels": {"a": "b c"}}), INVALID),
    "label of 64 characters": (make(CONFIG_MAP, {"labels": {"a": "b" * 64}}), INVALID),
    "label key with a space": (make(ROUTE, {"labels": {"a b": "b"}}, spec=TO), INVALID),
    "number as a label": (make(CONFIG_MAP, {"labels": {"a": 1}}), BAD),
    "number as a Route's label": (make(ROUTE, {"labels": {"a": 1}}, spec=TO), BAD),
    "annotation key with a space": (make(CONFIG_MAP, {"annotations": {"a b": "b"}}), INVALID),
    "number as an annotation": (make(ROUTE, {"annotations": {"a": 1}}, spec=TO), BAD),
    "list as metadata": (post(CONFIG_MAP, {"metadata": []}), BAD),
    "no metadata": (post(CONFIG_MAP, "{}"), INVALID),
    "another namespace than the path's": (make(CONFIG_MAP, {"namespace": "other"}), BAD),
    "another namespace than the path's in a Route": (make(ROUTE, {"namespace": "other"}, spec=TO), BAD),
    "no kind in a ConfigMap": (post(CONFIG_MAP, {"metadata": {"name": "a"}}), CREATED),
    "no kind in a Route": (post(ROUTE, {"metadata": {"name": "a"}, "spec": TO}), BAD),
    "another kind": (post(CONFIG_MAP, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}}), BAD),
    "another version": (post(CONFIG_MAP, {"apiVersion": "v2", "kind": "ConfigMap", "metadata": {"name": "a"}}), BAD),
}
BODIES = {
    "body that is no JSON": (post(CONFIG_MAP, "{"), BAD),
    "body that is no object": (post(CONFIG_MAP, "[1]"), BAD),
    "Route that is no JSON": (post(ROUTE, "{"), BAD),
    "Route that is no object": (post(ROUTE, "[1]"), BAD),
    "text as media type": (post(CONFIG_MAP, "{}", media="text/plain"), MEDIA),
    "body of 4 MiB": (make(CONFIG_MAP, data={"a": "x" * (4 << 20)}), "413 RequestEntityTooLarge"),
    "unknown value of dryRun": (post(CONFIG_MAP, {"metadata": {"name": "a"}}, dryRun="Some"), INVALID),
    "known fields under strict validation": (
        post(CONFIG_MAP, {"metadata": {"name": "a"}}, fieldValidation="Strict"),
        CREATED,
    ),
    "POST to a name": (send("POST", CONFIG_MAP, {"metadata": {"name": "a"}}), METHOD),
    "PATCH of a collection": (send("PATCH", CONFIG_MAP, {}, name=""), METHOD),
    "unknown group": (
        lambda api: api.ask("GET", "/apis/none.example/v1/namespaces/default/things"),
        "404 without Status",
    ),
    "unknown kind of a CRD's group": (
        lambda api: api.ask("GET", "/apis/route.openshift.io/v1/namespaces/default/things"),
        "404 without Status",
    ),
}
PATCHES = {
    "get what is not there": (get(CONFIG_MAP, "none"), MISSING),
    "get a Route that is not there": (get(ROUTE, "none"), MISSING),
    "patch what is not there": (send("PATCH", CONFIG_MAP, {}, media="application/merge-patch+json"), MISSING),
    "patch a Route that is not there": (send("PATCH", ROUTE, {}, media="application/merge-patch+json"), MISSING),
    "patch another name": (merge({"metadata": {"name": "b"}}), BAD),
    "patch the name away": (merge({"metadata": {"name": None}}), BAD),
    "patch another namespace": (merge({"metadata": {"namespace": "b"}}), BAD),
    "patch the namespace away": (merge({"metadata": {"namespace": None}}), OK),
    "patch another uid": (merge({"metadata": {"uid": "b"}}), INVALID),
    "patch the uid away": (merge({"metadata": {"uid": None}}), OK),
    "patch another kind": (merge({"kind": "Secret"}), INVALID),
    "patch another version": (merge({"apiVersion": "v2"}), INVALID),
    "patch metadata to null": (merge({"metadata": None}), BAD),
    "patch metadata to a list": (merge({"metadata": []}), INVALID),
    "patch a Route's name": (merge_route({"metadata": {"name": "b"}}), BAD),
    "patch a Route's uid": (merge_route({"metadata": {"uid": "b"}}), INVALID),
    "patch a Route's label to a number": (merge_route({"metadata": {"labels": {"a": 1}}}), INVALID),
    "patch a Route's spec away": (merge_route({"spec": None}), INVALID),
    "patch onto an old version": (merge({"metadata": {"resourceVersion": "1"}, "data": {"x": "y"}}), CONFLICT),
    "patch nothing onto an old version": (merge({"metadata": {"resourceVersion": "1"}}), CONFLICT),
    "patch a Route of an old version": (
        merge_route({"metadata": {"resourceVersion": "1"}, "spec": {"to": {"weight": 1}}}),
        CONFLICT,
    ),
    "patch onto version 0, which is any": (merge({"metadata": {"resourceVersion": "0"}}), OK),
    "patch onto an empty version": (merge({"metadata": {"resourceVersion": ""}}), OK),
    "patch onto version null": (merge({"metadata": {"resourceVersion": None}}), OK),
    "patch onto a version that is a number": (merge({"metadata": {"resourceVersion": 1}}), INVALID),
    "patch that is a list": (merge([1]), BAD),
    "patch that is no JSON": (merge("{"), BAD),
    "patch as plain JSON": (then(CONFIG_MAP, {}, send("PATCH", CONFIG_MAP, {})), MEDIA),
    "patch as text": (then(CONFIG_MAP, {}, send("PATCH", CONFIG_MAP, "{}", media="text/plain")), MEDIA),
    # This is what `oc set route-backends` sends; see docs/parity.md.
    "strategic-merge patch of a Route": (
        then(ROUTE, {"spec": TO}, send("PATCH", ROUTE, {}, media="application/strategic-merge-patch+json")),
        MEDIA,
    ),
    "status of a Route": (then(ROUTE, {"spec": TO}, get(ROUTE, "a/status")), OK),
    "status of a Service": (then(SERVICE, {"spec": PORTS}, get(SERVICE, "a/status")), OK),
    "status of a ConfigMap": (then(CONFIG_MAP, {}, get(CONFIG_MAP, "a/status")), MISSING),
}
BUILTIN = {
    "ConfigMap with a number": (make(CONFIG_MAP, data={"a": 1}), BAD),
    "ConfigMap with a list": (make(CONFIG_MAP, data=["a"]), BAD),
    "ConfigMap with a space in a key": (make(CONFIG_MAP, data={"a b": "1"}), INVALID),
    "ConfigMap patched to a number": (merge({"data": {"a": 1}}), INVALID),
    "Lease without spec": (make(LEASE), CREATED),
    "Lease of 0 seconds": (spec(LEASE, leaseDurationSeconds=0), INVALID),
    "Lease of -1 seconds": (spec(LEASE, leaseDurationSeconds=-1), INVALID),
    "Lease of 1.5 seconds": (spec(LEASE, leaseDurationSeconds=1.5), BAD),
    "Lease of '15' seconds": (spec(LEASE, leaseDurationSeconds="15"), BAD),
    "Lease with -1 transitions": (spec(LEASE, leaseTransitions=-1), INVALID),
    "Lease with 0 transitions": (spec(LEASE, leaseTransitions=0), CREATED),
    "Lease renewed yesterday": (spec(LEASE, renewTime="yesterday"), BAD),
    "Lease renewed without microseconds": (spec(LEASE, renewTime="2026-11-23T15:00:00Z"), BAD),
    "Lease renewed with microseconds": (spec(LEASE, renewTime=MICRO), CREATED),
    "Lease of nobody": (spec(LEASE, holderIdentity=""), CREATED),
    "Lease of a number": (spec(LEASE, holderIdentity=1), BAD),
    "Event about nothing": (make(EVENT), INVALID),
    "Event about another namespace": (make(EVENT, involvedObject={"namespace": "other"}), INVALID),
    "Service without spec": (make(SERVICE), INVALID),
    "Service without ports": (spec(SERVICE, selector={"a": "b"}), INVALID),
    "Service's port 0": (spec(SERVICE, ports=[{"port": 0}]), INVALID),
    "Service's port 70000": (spec(SERVICE, ports=[{"port": 70000}]), INVALID),
    "Service's port '80'": (spec(SERVICE, ports=[{"port": "80"}]), BAD),
    "Service's port that is no object": (spec(SERVICE, ports=[1]), BAD),
    "Service's ports without names": (spec(SERVICE, ports=[{"port": 80}, {"port": 81}]), INVALID),
    "Service's ports of one name": (
        spec(SERVICE, ports=[{"port": 80, "name": "a"}, {"port": 81, "name": "a"}]),
        INVALID,
    ),
    "Service's port named twice": (
        spec(SERVICE, ports=[{"port": 80, "name": "a"}, {"port": 80, "name": "b"}]),
        INVALID,
    ),
    "Service's targetPort 0": (spec(SERVICE, ports=[{"port": 80, "targetPort": 0}]), CREATED),
    "Service's targetPort http": (spec(SERVICE, ports=[{"port": 80, "targetPort": "http"}]), CREATED),
    "Service's targetPort with a space": (spec(SERVICE, ports=[{"port": 80, "targetPort": "a b"}]), INVALID),
    "Service's unknown protocol": (spec(SERVICE, ports=[{"port": 80, "protocol": "FOO"}]), INVALID),
    "Service's unknown type": (spec(SERVICE, type="Foo", **PORTS), INVALID),
    "Service's selector with a number": (spec(SERVICE, selector={"a": 1}, **PORTS), BAD),
    "Service's ports patched away": (merge({"spec": {"ports": None}}, SERVICE, {"spec": PORTS}), INVALID),
}
CUSTOM = {
    "ServingRuntime without containers": (spec(SERVING_RUNTIME), INVALID),
    "ServingRuntime's container without a name": (spec(SERVING_RUNTIME, containers=[{"image": "x"}]), INVALID),
    "InferenceService": (spec(INFERENCE_SERVICE, **ISVC), CREATED),
    "Route without spec": (make(ROUTE), INVALID),
    "Route to nothing": (spec(ROUTE), INVALID),
    "Route whose spec is a text": (make(ROUTE, spec="x"), INVALID),
    "weight 257": (to(weight=257), INVALID),
    "weight 256": (to(weight=256), CREATED),
    "weight -1": (to(weight=-1), INVALID),
    "weight '1'": (to(weight="1"), INVALID),
    "weight 1.5": (to(weight=1.5), INVALID),
    "weight null": (to(weight=None), CREATED),
    "backend of kind Pod": (to(kind="Pod"), INVALID),
    "backend without a name": (route(to={"kind": "Service"}), INVALID),
    "backend with an empty name": (to(name=""), INVALID),
    "four alternate backends": (route(alternateBackends=[{"kind": "Service", "name": n} for n in "abcd"]), INVALID),
    "alternate backend without a name": (route(alternateBackends=[{"kind": "Service", "weight": 1}]), INVALID),
    "alternate backend of weight 300": (
        route(alternateBackends=[{"kind": "Service", "name": "a", "weight": 300}]),
        INVALID,
    ),
    "alternate backend twice": (route(alternateBackends=[{"kind": "Service", "name": "a"}] * 2), INVALID),
    "alternate backends that are no list": (route(alternateBackends={}), INVALID),
    "alternate backends null": (route(alternateBackends=None), CREATED),
    "host with a line break": (route(host="a b\n c"), INVALID),
    "host with _": (route(host="a_b.c"), INVALID),
    "host that is a number": (route(host=1), INVALID),
    "path without /": (route(path="v2"), INVALID),
    "TLS ended here": (route(tls={"termination": "edge"}), CREATED),
    "TLS without termination": (route(tls={}), INVALID),
    "TLS of an unknown kind": (route(tls={"termination": "none"}), INVALID),
    "unknown policy for plain HTTP": (
        route(tls={"termination": "edge", "insecureEdgeTerminationPolicy": "X"}),
        INVALID,
    ),
    "wildcard of subdomains": (route(wildcardPolicy="Subdomain"), INVALID),
    "Route's port http": (route(port={"targetPort": "http"}), CREATED),
    "Route's port without targetPort": (route(port={}), INVALID),
}  # fmt: skip
SAME = {**_twice(), **_names(), **_selectors(), **METADATA, **BODIES, **PATCHES, **BUILTIN, **CUSTOM}
