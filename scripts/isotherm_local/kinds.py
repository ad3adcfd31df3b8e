"""The kinds that the embedded API serves: where they live, what a client may do with them, and what makes one invalid.

Inputs and outputs: none; a table and pure functions on objects as JSON.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]
Cause = tuple[str, str]  # field, what is wrong with it

DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
DNS_SUBDOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
DNS_1035 = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_PORT_NAME = re.compile(r"(?=.{1,15}$)(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*")
_DATA_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_MICRO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)")
MAX_ALTERNATE_BACKENDS = 3
MAX_WEIGHT = 256


def _mapping(parent: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    """Read a nested mapping; anything else counts as empty, as the caller names what it misses."""
    value = parent.get(field)
    return value if isinstance(value, dict) else {}


def _text_map(where: str, value: object) -> list[Cause]:
    if value is None or (isinstance(value, dict) and all(isinstance(v, str) for v in value.values())):
        return []
    return [(where, "must map names to texts")]


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _port(where: str, value: object) -> list[Cause]:
    if isinstance(value, int) and _is_whole(value) and 1 <= value <= 65535:
        return []
    return [(where, f"Invalid value: {value!r}: must be between 1 and 65535")]


def _backend(where: str, backend: object) -> list[Cause]:
    """Check one target of a Route."""
    if not isinstance(backend, dict):
        return [(where, "Required value: names the Service that gets the traffic")]
    causes = []
    if backend.get("kind", "Service") != "Service":
        causes.append((f"{where}.kind", f'Unsupported value: {backend["kind"]!r}: supported values: "Service"'))
    if not isinstance(backend.get("name"), str) or not backend["name"]:
        causes.append((f"{where}.name", "Required value"))
    weight = backend.get("weight")
    if weight is not None and (
        isinstance(weight, bool) or not isinstance(weight, int) or not 0 <= weight <= MAX_WEIGHT
    ):
        causes.append((f"{where}.weight", f"Invalid value: {weight!r}: must be between 0 and {MAX_WEIGHT}"))
    return causes


def _check_route(route: Object) -> list[Cause]:
    spec = _mapping(route, "spec")
    causes = _backend("spec.to", spec.get("to"))
    alternates = spec.get("alternateBackends", [])
    if not isinstance(alternates, list) or len(alternates) > MAX_ALTERNATE_BACKENDS:
        return [*causes, ("spec.alternateBackends", f"must be a list of at most {MAX_ALTERNATE_BACKENDS} backends")]
    for index, backend in enumerate(alternates):
        causes += _backend(f"spec.alternateBackends[{index}]", backend)
    names = [
        (backend.get("kind", "Service"), backend.get("name")) for backend in alternates if isinstance(backend, dict)
    ]
    causes += [(f"spec.alternateBackends[{i}]", "Duplicate value") for i, n in enumerate(names) if n in names[:i]]
    return causes + _check_route_edge(spec)


def _check_route_edge(spec: Mapping[str, Any]) -> list[Cause]:
    """Check how a Route is reached: host, path, TLS."""
    causes: list[Cause] = []
    host = spec.get("host")
    if host and not (isinstance(host, str) and DNS_SUBDOMAIN.fullmatch(host)):
        causes.append(("spec.host", f"Invalid value: {host!r}: must be a lower-case DNS name"))
    if spec.get("path"):
        causes.append(("spec.path", "the local router carries whole hosts only"))
    if spec.get("wildcardPolicy", "None") != "None":
        causes.append(("spec.wildcardPolicy", 'Unsupported value: supported values: "None"'))
    if "port" in spec and "targetPort" not in _mapping(spec, "port"):
        causes.append(("spec.port.targetPort", "Required value"))
    if "tls" not in spec:
        return causes
    termination = _mapping(spec, "tls").get("termination")
    if termination != "edge":
        what = f"{termination!r}: the local router supports edge only (and serves it as plain HTTP)"
        causes.append(("spec.tls.termination", what))
    policy = _mapping(spec, "tls").get("insecureEdgeTerminationPolicy", "")
    if policy not in ("", "None", "Allow", "Redirect"):
        what = f'Unsupported value: {policy!r}: supported values: "None", "Allow", "Redirect"'
        causes.append(("spec.tls.insecureEdgeTerminationPolicy", what))
    return causes


def generated_host(metadata: Mapping[str, Any], domain: str = "localhost") -> str:
    """Make the host of a Route that names none."""
    return f"{metadata['name']}-{metadata['namespace']}.apps.{domain}"


def _default_route(route: Object) -> None:
    spec, metadata = route["spec"], route["metadata"]
    for backend in [spec["to"], *(spec.get("alternateBackends") or [])]:
        backend.setdefault("kind", "Service")
        if backend.get("weight") is None:
            backend["weight"] = 100
    spec.setdefault("wildcardPolicy", "None")
    if not spec.get("host"):
        spec["host"] = generated_host(metadata)


def _service_types(service: Object) -> list[Cause]:
    spec = _mapping(service, "spec")
    ports = spec.get("ports") or []
    causes = _text_map("spec.selector", spec.get("selector"))
    if not isinstance(ports, list) or not all(isinstance(port, dict) for port in ports):
        return [*causes, ("spec.ports", "must be a list of objects")]
    wrong = [index for index, port in enumerate(ports) if not _is_whole(port.get("port", 0))]
    return causes + [(f"spec.ports[{index}].port", "must be a whole number") for index in wrong]


def _check_service(service: Object) -> list[Cause]:
    spec = _mapping(service, "spec")
    causes: list[Cause] = []
    if spec.get("type", "ClusterIP") != "ClusterIP":
        causes.append(("spec.type", 'Unsupported value: supported values on the local target: "ClusterIP"'))
    ports = spec.get("ports")
    if not isinstance(ports, list) or not ports:
        return [*causes, ("spec.ports", "Required value")]
    for index, port in enumerate(ports):
        causes += _check_service_port(f"spec.ports[{index}]", port)
        if len(ports) > 1 and not port.get("name"):
            causes.append((f"spec.ports[{index}].name", "Required value: with more than one port each needs a name"))
        same = [o for o in ports[:index] if o.get("name") == port.get("name") or o.get("port") == port.get("port")]
        if same:
            causes.append((f"spec.ports[{index}]", "Duplicate value: name and number must be a port's own"))
    return causes


def _check_service_port(where: str, port: Mapping[str, Any]) -> list[Cause]:
    causes = _port(f"{where}.port", port.get("port"))
    if port.get("protocol", "TCP") not in ("TCP", "UDP", "SCTP"):
        causes.append((f"{where}.protocol", 'Unsupported value: supported values: "SCTP", "TCP", "UDP"'))
    target = port.get("targetPort") or port.get("port")  # 0 counts as not given
    if not isinstance(target, str):
        causes += _port(f"{where}.targetPort", target)
    elif not _PORT_NAME.fullmatch(target):
        causes.append((f"{where}.targetPort", f"Invalid value: {target!r}: must be a port's name"))
    return causes


def _default_service(service: Object) -> None:
    spec = service["spec"]
    spec.setdefault("type", "ClusterIP")
    for port in spec["ports"]:
        port.setdefault("protocol", "TCP")
        port["targetPort"] = port.get("targetPort") or port["port"]


def _config_map_types(config_map: Object) -> list[Cause]:
    return _text_map("data", config_map.get("data"))


def _check_config_map(config_map: Object) -> list[Cause]:
    wrong = [key for key in config_map.get("data") or {} if not _DATA_KEY.fullmatch(key)]
    return [("data", f"Invalid value: {key!r}: must be alphanumerics, -, _ or .") for key in wrong]


def _check_event(event: Object) -> list[Cause]:
    involved = _mapping(event, "involvedObject")
    if not involved:
        return [("involvedObject", "Required value")]
    if involved.get("namespace") != event["metadata"]["namespace"]:
        return [
            (
                "involvedObject.namespace",
                f"Invalid value: {involved.get('namespace')!r}: does not match event.namespace",
            )
        ]
    return []


def _lease_types(lease: Object) -> list[Cause]:
    spec, causes = _mapping(lease, "spec"), list[Cause]()
    for field in ("leaseDurationSeconds", "leaseTransitions"):
        if not _is_whole(spec.get(field, 0)):
            causes.append((f"spec.{field}", "must be a whole number"))
    for field in ("acquireTime", "renewTime"):
        if field in spec and not (isinstance(spec[field], str) and _MICRO_TIME.fullmatch(spec[field])):
            causes.append((f"spec.{field}", "must be a time with microseconds, 2006-01-02T15:04:05.000000Z"))
    if not isinstance(spec.get("holderIdentity", ""), str):
        causes.append(("spec.holderIdentity", "must be a text"))
    return causes


def _check_lease(lease: Object) -> list[Cause]:
    least = {"leaseDurationSeconds": 1, "leaseTransitions": 0}
    found = {field: _mapping(lease, "spec").get(field) for field in least}
    low = {field: value for field, value in found.items() if value is not None and value < least[field]}
    return [(f"spec.{f}", f"Invalid value: {v}: must be {least[f]} or more") for f, v in low.items()]


def _check_inference_service(service: Object) -> list[Cause]:
    from isotherm_local import canaries

    spec = _mapping(service, "spec")
    predictor = _mapping(spec, "predictor")
    if not predictor:
        return [("spec.predictor", "Required value")]
    causes = [
        (f"spec.{name}", "not supported by the local target") for name in ("transformer", "explainer") if spec.get(name)
    ]
    model = _mapping(predictor, "model")
    if not model:
        return [*causes, ("spec.predictor.model", "Required value: the local target serves the `model` form only")]
    if not _mapping(model, "modelFormat").get("name"):
        causes.append(("spec.predictor.model.modelFormat.name", "Required value"))
    replicas = predictor.get("minReplicas", 1)
    if isinstance(replicas, bool) or not isinstance(replicas, int) or not 0 <= replicas <= 16:
        causes.append(
            ("spec.predictor.minReplicas", f"Invalid value: {replicas!r}: the local target starts 0 to 16 processes")
        )
    return causes or canaries.causes(service)


def _check_serving_runtime(runtime: Object) -> list[Cause]:
    containers = _mapping(runtime, "spec").get("containers")
    if not isinstance(containers, list) or not containers:
        return [("spec.containers", "Required value")]
    causes = []
    for index, container in enumerate(containers):
        for field in ("name", "image"):
            if not isinstance(container, dict) or not isinstance(container.get(field), str):
                causes.append((f"spec.containers[{index}].{field}", "Required value"))
    return causes


def _no_check(_: Object) -> list[Cause]:
    return []


def _no_default(_: Object) -> None:
    return None


@dataclass(frozen=True)
class Kind:
    """One served kind: `writable` is false where only controllers write, `generation` counts changes of `spec`.

    `types` names what the API server could not even decode (400), `check` what breaks a rule of the kind (422).
    """

    group: str
    version: str
    plural: str
    kind: str
    check: Callable[[Object], list[Cause]] = _no_check
    default: Callable[[Object], None] = _no_default
    writable: bool = True
    generation: bool = False
    has_status: bool = False
    short_names: tuple[str, ...] = ()
    types: Callable[[Object], list[Cause]] = _no_check
    name_pattern: re.Pattern[str] | None = None  # none: a DNS subdomain
    selectable: tuple[str, ...] = ()  # fields of a field selector beside metadata's

    @property
    def custom(self) -> bool:
        """Whether a CRD brings it: such an object must state its kind, and keeps it in lists."""
        return "." in self.group and not self.group.endswith(".k8s.io")

    @property
    def api_version(self) -> str:
        """The `apiVersion` of its objects."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def resource(self) -> str:
        """The name that error messages use, `routes.route.openshift.io`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def qualified(self) -> str:
        """The kind with its group, `Route.route.openshift.io`."""
        return f"{self.kind}.{self.group}" if self.group else self.kind


_INVOLVED = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
CONFIG_MAP = Kind("", "v1", "configmaps", "ConfigMap", _check_config_map, short_names=("cm",), types=_config_map_types)
EVENT = Kind(
    "", "v1", "events", "Event", _check_event, short_names=("ev",),
    selectable=("reason", "type", *(f"involvedObject.{field}" for field in _INVOLVED)),
)  # fmt: skip
SERVICE = Kind(
    "", "v1", "services", "Service", _check_service, _default_service, has_status=True, short_names=("svc",),
    types=_service_types, name_pattern=DNS_1035,
)  # fmt: skip
LEASE = Kind("coordination.k8s.io", "v1", "leases", "Lease", _check_lease, types=_lease_types)
DEPLOYMENT = Kind(
    "apps", "v1", "deployments", "Deployment", writable=False, generation=True, has_status=True, short_names=("deploy",)
)
ENDPOINT_SLICE = Kind("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", writable=False, generation=True)
ROUTE = Kind(
    "route.openshift.io", "v1", "routes", "Route", _check_route, _default_route, generation=True, has_status=True
)
INFERENCE_SERVICE = Kind(
    "serving.kserve.io",
    "v1beta1",
    "inferenceservices",
    "InferenceService",
    _check_inference_service,
    generation=True,
    has_status=True,
    short_names=("isvc",),
    name_pattern=DNS_1035,
)
SERVING_RUNTIME = Kind(
    "serving.kserve.io", "v1alpha1", "servingruntimes", "ServingRuntime", _check_serving_runtime, generation=True
)
KINDS = (
    CONFIG_MAP,
    EVENT,
    SERVICE,
    LEASE,
    DEPLOYMENT,
    ENDPOINT_SLICE,
    ROUTE,
    INFERENCE_SERVICE,
    SERVING_RUNTIME,
)


def find(group: str, version: str, plural: str) -> Kind | None:
    """Find the kind that a REST path names; None where the local target does not serve it."""
    return next((k for k in KINDS if (k.group, k.version, k.plural) == (group, version, plural)), None)


def served() -> str:
    """Name what is served, for error messages."""
    return ", ".join(f"{kind.kind} ({kind.api_version})" for kind in KINDS)
