"""What the embedded API does otherwise than a cluster, on purpose; docs/parity.md lists these rows.

A row whose two answers do not differ any more fails, as does a request of `answers` whose answers come to differ.
"""

from __future__ import annotations

from dataclasses import dataclass

from api_rules.answers import BAD, CONFLICT, CREATED, INVALID, MEDIA, METHOD, MISSING, OK
from api_rules.requests import ISVC, MODEL, PORTS, TO, Ask, fact, get, make, merge, route, send, spec, then
from api_rules.target import EMBEDDED, MERGE_PATCH
from isotherm_local.kinds import (
    CONFIG_MAP,
    DEPLOYMENT,
    ENDPOINT_SLICE,
    INFERENCE_SERVICE,
    ROUTE,
    SERVICE,
    SERVING_RUNTIME,
    Object,
)

FIRST, LAST = "<!-- differences: begin -->", "<!-- differences: end -->"
APPLY = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}
REPLICAS = {
    "replicas": 0,
    "selector": {"matchLabels": {"a": "b"}},
    "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "a"}]}},
}
NOBODY = {"Impersonate-User": "system:serviceaccount:default:nobody"}


@dataclass(frozen=True)
class Difference:
    """A request, both answers, and why they may differ."""

    request: str
    ask: Ask
    embedded: str
    cluster: str
    why: str

    def expected(self, api: str) -> str:
        """The answer of one of them."""
        return self.embedded if api == EMBEDDED else self.cluster


def model_of(service: Object) -> Object:
    """What an InferenceService says about its model."""
    model: Object = service["spec"]["predictor"]["model"]
    return model


D = Difference
MEANT_FOR_LESS = "the programs have get, list, create and merge-patch; a cluster has the rest too"
REFUSED_FIRST = "the local target could not act on it, so it refuses rather than ignores"
TABLE = [
    D("create in a namespace that nobody made",
      lambda a: a.ask("POST", a.path(CONFIG_MAP, namespace="api-nowhere"), APPLY),
      CREATED, MISSING, "a namespace is a folder of the local target's state"),
    D("read under an account without rights", lambda a: a.ask("GET", a.path(ROUTE), headers=NOBODY),
      OK, "403 Forbidden", "the kubeconfig is the only account; tests/e2e/test_rbac.py checks the Roles"),
    D("watch", get(CONFIG_MAP, watch="true", timeoutSeconds="1"), METHOD, OK, MEANT_FOR_LESS),
    D("replace", then(CONFIG_MAP, {}, send("PUT", CONFIG_MAP, APPLY)), METHOD, OK, MEANT_FOR_LESS),
    D("delete", then(CONFIG_MAP, {}, send("DELETE", CONFIG_MAP)), METHOD, OK, MEANT_FOR_LESS),
    D("server-side apply", send("PATCH", CONFIG_MAP, APPLY, media="application/apply-patch+yaml", fieldManager="x"),
      MISSING, CREATED, MEANT_FOR_LESS),
    D("JSON patch", then(CONFIG_MAP, {}, send("PATCH", CONFIG_MAP, [], media="application/json-patch+json")),
      MEDIA, OK, MEANT_FOR_LESS),
    D("strategic-merge patch of a kind of Kubernetes' own",
      then(CONFIG_MAP, {}, send("PATCH", CONFIG_MAP, {}, media="application/strategic-merge-patch+json")),
      MEDIA, OK, MEANT_FOR_LESS),
    D("patch the status", then(ROUTE, {"spec": TO}, send("PATCH", ROUTE, {}, name="a/status", media=MERGE_PATCH)),
      METHOD, OK, "only the local target's own controllers write status"),
    D("create a Deployment", spec(DEPLOYMENT, **REPLICAS), METHOD, CREATED,
      "its own controller writes them (decision 4)"),
    D("create an EndpointSlice", make(ENDPOINT_SLICE, addressType="IPv4", endpoints=[]),
      METHOD, CREATED, "its own controller writes them (decision 4)"),
    D("a kind that the programs do not use",
      lambda a: a.ask("GET", "/apis/apps/v1/namespaces/default/statefulsets"), "404 without Status", OK, "not served"),
    D("list with limit=1, items", then(CONFIG_MAP, {}, make(CONFIG_MAP, {"name": "b"}), fact(
        get(CONFIG_MAP, limit="1"), lambda body: "one" if len(body["items"]) == 1 else "all")),
      "all", "one", "lists are small; there is no continue token"),
    D("label selector with >", get(ROUTE, labelSelector="a>1"), BAD, OK, "the programs select by equality"),
    D("create with a resourceVersion", make(CONFIG_MAP, {"resourceVersion": "1"}), BAD, "500",
      "the same refusal; the API server calls it an internal error"),
    D("patch onto a version that is no number", merge({"metadata": {"resourceVersion": "abc"}}), CONFLICT, "500",
      "the same refusal; the API server calls it an internal error"),
    D("ConfigMap of 2 MiB", make(CONFIG_MAP, data={"a": "x" * (2 << 20)}), "413 RequestEntityTooLarge", INVALID,
      "no body over 1 MiB is read"),
    D("an unknown field under strict validation",
      lambda a: a.post(ROUTE, {"metadata": {"name": "a"}, "spec": {**TO, "fo": 1}}, fieldValidation="Strict"),
      CREATED, BAD, "the local target has no schemas; `isotherm lint` checks YAML against them"),
    D("an unknown field that was written",
      fact(route(fo=1), lambda body: "kept" if "fo" in body["spec"] else "dropped"),
      "kept", "dropped", "the local target has no schemas"),
    D("metadata.managedFields",
      fact(make(CONFIG_MAP, data={"a": "b"}), lambda body: "managedFields" in body["metadata"]),
      "False", "True", "there is no server-side apply"),
    D("Service's clusterIP", fact(spec(SERVICE, **PORTS), lambda body: "clusterIP" in body["spec"]),
      "False", "True", "Services have names and endpoints, no address"),
    D("Service of type NodePort", spec(SERVICE, type="NodePort", **PORTS), INVALID, CREATED, REFUSED_FIRST),
    D("Service of type ExternalName", spec(SERVICE, type="ExternalName", externalName="x.y"),
      INVALID, CREATED, REFUSED_FIRST),
    D("Route without a host, as created", fact(route(), lambda body: "host" if "host" in body["spec"] else "no host"),
      "host", "no host", "OpenShift's API server fills it in; under a Route CRD the lab's router does, a moment later"),
    D("Route with an empty host", route(host=""), CREATED, INVALID, "as OpenShift; the CRD's pattern refuses it"),
    D("Route with a path", route(path="/v2"), INVALID, CREATED, REFUSED_FIRST),
    D("Route that passes TLS through", route(tls={"termination": "passthrough"}), INVALID, CREATED, REFUSED_FIRST),
    D("Route whose host has capitals", route(host="A.b"), INVALID, CREATED,
      "refused by the router there, not by the API"),
    D("InferenceService that KServe names badly", make(INFERENCE_SERVICE, {"name": "1a"}, spec=ISVC), INVALID,
      "403 Forbidden", "KServe's webhook refuses it"),
    D("InferenceService with -1 replicas", spec(INFERENCE_SERVICE, predictor={"model": MODEL, "minReplicas": -1}),
      INVALID, "403 Forbidden", "KServe's webhook refuses it"),
    D("InferenceService without a predictor", spec(INFERENCE_SERVICE, predictor={}), INVALID, "500",
      "KServe's webhook breaks on it"),
    D("InferenceService with 17 replicas", spec(INFERENCE_SERVICE, predictor={"model": MODEL, "minReplicas": 17}),
      INVALID, CREATED, "each is a process of this machine"),
    D("InferenceService of containers",
      spec(INFERENCE_SERVICE, predictor={"containers": [{"name": "kserve-container", "image": "a"}]}),
      INVALID, CREATED, REFUSED_FIRST),
    D("InferenceService with a transformer",
      spec(INFERENCE_SERVICE, transformer={"containers": [{"name": "kserve-container", "image": "a"}]}, **ISVC),
      INVALID, CREATED, REFUSED_FIRST),
    D("InferenceService's model, as created",
      fact(spec(INFERENCE_SERVICE, **ISVC), lambda body: ", ".join(sorted(model_of(body)))),
      "modelFormat, runtime", "modelFormat, name, resources, runtime", "KServe's webhook fills in defaults"),
    D("ServingRuntime's container without an image", spec(SERVING_RUNTIME, containers=[{"name": "a"}]),
      INVALID, CREATED, "the image names the environment that serves"),
]  # fmt: skip


def document() -> str:
    """The table for docs/parity.md."""
    rows = [f"| {d.request} | {d.embedded} | {d.cluster} | {d.why} |" for d in TABLE]
    return "\n".join([FIRST, "| request | embedded | cluster | why |", "|---|---|---|---|", *rows, LAST])
