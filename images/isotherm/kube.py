"""The Kubernetes API as the programs use it: four verbs over plain dicts, compare-and-set writes, typed errors.

Reads   the current context of the kubeconfig, or the pod's ServiceAccount (`config.load_config()`)
Writes  objects in that one namespace, by create and by merge-patch with the resourceVersion that was read
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isotherm import contract, tekton

Object = dict[str, Any]
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
REQUEST_SECONDS = 10.0
READ_DEADLINE_SECONDS = 30.0
MERGE_PATCH = "application/merge-patch+json"


@dataclass(frozen=True)
class Kind:
    """One kind of object: its API group (empty for the core group), version and plural name."""

    name: str
    group: str
    version: str
    plural: str

    @property
    def api_version(self) -> str:
        """The `apiVersion` of its objects."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def resource(self) -> str:
        """Name as RBAC messages spell it: `routes.route.openshift.io`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


INFERENCE_SERVICE = Kind("InferenceService", "serving.kserve.io", "v1beta1", "inferenceservices")
SERVING_RUNTIME = Kind("ServingRuntime", "serving.kserve.io", "v1alpha1", "servingruntimes")
ROUTE = Kind("Route", "route.openshift.io", "v1", "routes")
SERVICE = Kind("Service", "", "v1", "services")
DEPLOYMENT = Kind("Deployment", "apps", "v1", "deployments")
ENDPOINT_SLICE = Kind("EndpointSlice", "discovery.k8s.io", "v1", "endpointslices")
EVENT = Kind("Event", "events.k8s.io", "v1", "events")
LEASE = Kind("Lease", "coordination.k8s.io", "v1", "leases")
PIPELINE_RUN = Kind("PipelineRun", "tekton.dev", "v1", "pipelineruns")
TRIGGER_TEMPLATE = Kind("TriggerTemplate", "triggers.tekton.dev", "v1beta1", "triggertemplates")
INTERCEPTOR = Kind("Interceptor", "triggers.tekton.dev", "v1alpha1", "interceptors")


class Conflict(tekton.Refused):
    """Another writer was faster: the resourceVersion is no longer the one that was read, or the name is taken."""


class _Uncertain(tekton.Unavailable):
    """No usable answer, so that nobody knows whether a write took place."""


class _Busy(tekton.Unavailable):
    """The server turned the request away before acting on it (429)."""


class Cluster:
    """One namespace of one cluster. Reads are repeated with jitter; writes carry what they were based on."""

    def __init__(self, api_client: Any, namespace: str, *, deadline_seconds: float = READ_DEADLINE_SECONDS) -> None:
        from kubernetes import client

        self.namespace = namespace
        self._custom = client.CustomObjectsApi(api_client)
        self._core = client.CoreV1Api(api_client)
        self._deadline_seconds = deadline_seconds

    @classmethod
    def from_config(cls, *, deadline_seconds: float = READ_DEADLINE_SECONDS) -> Cluster:
        """Connect as the current context of the kubeconfig or the pod's ServiceAccount says.

        Raises `tekton.BadInput` where neither is there or the kubeconfig cannot be used.
        """
        from kubernetes import client, config

        try:
            with contextlib.redirect_stdout(io.StringIO()):  # in a pod it prints that the configuration might not work
                config.load_config()
        except (config.ConfigException, OSError) as error:
            raise tekton.BadInput(
                f"no Kubernetes API is configured: {error}",
                remedy="set KUBECONFIG, or run in a pod whose ServiceAccount has a token",
            ) from error
        configuration = client.Configuration.get_default_copy()
        configuration.retries = False  # one place repeats: below, with jitter and a deadline
        return cls(client.ApiClient(configuration), _namespace(), deadline_seconds=deadline_seconds)

    def get(self, kind: Kind, name: str) -> Object | None:
        """Read one object; None where it does not exist."""
        if kind is SERVICE:
            return self._read(kind, name, lambda options: _json(self._core.read_namespaced_service(name, **options)))
        return self._read(kind, name, lambda options: self._custom.get_namespaced_custom_object(name=name, **options))

    def list(self, kind: Kind, label_selector: str) -> list[Object]:
        """Read the objects with these labels."""

        def call(options: Object) -> Object:
            found: Object = self._custom.list_namespaced_custom_object(label_selector=label_selector, **options)
            return found

        answer = self._read(kind, "", call) or {}
        items: list[Object] = answer.get("items", [])
        return items

    def create(self, kind: Kind, body: Object) -> Object:
        """Create an object. Raises `Conflict` where the name is taken by something else."""
        name = body["metadata"]["name"]
        options: Object = {"field_manager": contract.FIELD_MANAGER, "field_validation": "Strict"}

        def call(arguments: Object) -> Object:
            if kind is SERVICE:
                return _json(self._core.create_namespaced_service(body=body, **arguments, **options))
            created: Object = self._custom.create_namespaced_custom_object(body=body, **arguments, **options)
            return created

        return self._write("create", kind, name, body, call)

    def patch(self, kind: Kind, name: str, change: Object, resource_version: str) -> Object:
        """Merge-patch an object only if it still is the one that was read. Raises `Conflict` where it is not.

        Lists are replaced whole; a None deletes its key.
        """
        if not resource_version:
            raise ValueError(f"a write to {kind.name} {name} needs the resourceVersion it is based on")
        metadata = {**change.get("metadata", {}), "resourceVersion": resource_version}
        body = {**change, "metadata": metadata}

        def call(arguments: Object) -> Object:
            patched: Object = self._custom.patch_namespaced_custom_object(
                name=name, body=body, field_manager=contract.FIELD_MANAGER, _content_type=MERGE_PATCH, **arguments
            )
            return patched

        return self._write("patch", kind, name, change, call)

    def _arguments(self, kind: Kind) -> Object:
        arguments: Object = {"namespace": self.namespace, "_request_timeout": REQUEST_SECONDS}
        if kind is SERVICE:
            return {**arguments, "_preload_content": False}  # the answer's own JSON, as for every other kind
        return {**arguments, "group": kind.group, "version": kind.version, "plural": kind.plural}

    def _read(self, kind: Kind, name: str, call: Callable[[Object], Object]) -> Object | None:
        verb = "get" if name else "list"
        for attempt in _attempts(self._deadline_seconds, (_Uncertain, _Busy)):
            with attempt:
                try:
                    return _translated(verb, kind, name, self.namespace, lambda: call(self._arguments(kind)))
                except _Missing:
                    return None
        raise AssertionError("tenacity either returns or raises")

    def _write(
        self, verb: str, kind: Kind, name: str, wanted: Mapping[str, Any], call: Callable[[Object], Object]
    ) -> Object:
        """Send a write until it has certainly happened or certainly not.

        After an answer that was lost the same write is sent again: had the first one landed, the second meets a
        conflict, and what is stored tells whether it is ours.
        """
        uncertain = False
        for attempt in _attempts(self._deadline_seconds, (_Uncertain, _Busy)):
            with attempt:
                try:
                    return _translated(verb, kind, name, self.namespace, lambda: call(self._arguments(kind)))
                except _Uncertain:
                    uncertain = True
                    raise
                except Conflict:
                    stored = self.get(kind, name) if uncertain else None
                    if stored is not None and contains(stored, wanted):
                        return stored
                    raise
                except _Missing as error:
                    raise tekton.BadInput(
                        f"{kind.name} {name} is not in namespace {self.namespace}", remedy="it was deleted: run again"
                    ) from error
        raise AssertionError("tenacity either returns or raises")


def contains(stored: Any, wanted: Any) -> bool:
    """Whether an object holds everything a body or merge-patch asks for; keys that the server added do not matter."""
    if isinstance(wanted, Mapping):
        if not isinstance(stored, Mapping):
            return False
        return all(
            key not in stored if value is None else contains(stored.get(key), value) for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return isinstance(stored, list) and len(stored) == len(wanted) and all(map(contains, stored, wanted))
    return bool(stored == wanted)


def refuse_foreign(kind: Kind, stored: Object) -> None:
    """Refuse an object that a controller owns: it would put back whatever is changed. Raises `tekton.Refused`."""
    for owner in stored["metadata"].get("ownerReferences") or []:
        if owner.get("controller"):
            name = stored["metadata"]["name"]
            raise tekton.Refused(
                f"{kind.name} {name} belongs to {owner.get('kind')} {owner.get('name')}, which would revert any change",
                remedy=f"give a {kind.name} name of its own, or remove the owner",
            )


class _Missing(Exception):
    """The object does not exist (404 with a Status body)."""


def _translated(verb: str, kind: Kind, name: str, namespace: str, call: Callable[[], Object]) -> Object:
    """Run one request; turn what the client raises into the errors of this module."""
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    what = f"{verb} {kind.resource} {name}".strip() + f" in namespace {namespace}"
    try:
        return call()
    except ApiException as error:
        raise _typed(what, kind, error) from error
    except (HTTPError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise _Uncertain(
            f"the Kubernetes API did not answer ({what}): {reason}",
            remedy="check that the cluster (locally: isotherm's API) is up and KUBECONFIG names it, then run again",
        ) from error


def _typed(what: str, kind: Kind, error: Any) -> Exception:
    """Choose the error for an HTTP status of the API server."""
    message = _message(error)
    if error.status == 404:
        if _status_object(error):
            return _Missing(what)
        return tekton.BadInput(
            f"the cluster does not know {kind.resource}/{kind.version} ({what})",
            remedy=f"install what brings the kind {kind.name}",
        )
    if error.status == 403 and "admission webhook" in message:
        return tekton.Refused(f"the cluster's own rules refuse {what}: {message}", remedy="correct what it names")
    if error.status == 403:
        return tekton.Refused(
            f"not allowed: {what} ({message})",
            remedy="add that verb and name to the Role in the Task's rbac.yaml and bind it to the "
            "ServiceAccount that ran this",
        )
    if error.status == 401:
        return tekton.Refused(f"the Kubernetes API does not accept the token ({what})", remedy="log in again")
    if error.status == 409:
        return Conflict(f"another writer was faster ({what}): {message}", remedy="run again")
    if error.status == 429:
        return _Busy(f"the Kubernetes API is busy ({what})", remedy="run again later")
    if error.status in (400, 413, 415, 422):
        return tekton.BadInput(f"the Kubernetes API refuses {what}: {message}", remedy="correct the param it names")
    return _Uncertain(f"the Kubernetes API failed ({what}): {error.status} {message}", remedy="run again later")


def _status_object(error: Any) -> bool:
    try:
        body = json.loads(error.body or "")
    except ValueError:
        return False
    return isinstance(body, dict) and body.get("kind") == "Status" and bool(body.get("details") or body.get("reason"))


def _message(error: Any) -> str:
    """The API server's own sentence, or the start of whatever it answered."""
    try:
        text = json.loads(error.body or "").get("message")
    except (ValueError, AttributeError):
        text = error.body
    return " ".join(str(text or error.reason or "no reason given").split())[:400]


def _attempts(deadline_seconds: float, transient: tuple[type[Exception], ...]) -> Any:
    from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

    return Retrying(
        retry=retry_if_exception_type(transient),
        stop=stop_after_delay(deadline_seconds),
        wait=wait_random_exponential(multiplier=0.2, max=5),
        reraise=True,
    )


def _json(response: Any) -> Object:
    body: Object = json.loads(response.data)
    return body


def _namespace() -> str:
    """The current context's namespace, else the pod's own, else `default`."""
    from kubernetes import config

    try:
        _, context = config.list_kube_config_contexts()
        return str(context["context"].get("namespace") or "default")
    except (config.ConfigException, TypeError):
        return NAMESPACE_FILE.read_text(encoding="utf-8").strip() if NAMESPACE_FILE.is_file() else "default"
