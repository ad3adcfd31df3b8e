"""What a deployment would change: decided from what is stored and what is wanted, shown as a diff, applied one by one.

Inputs: objects as the API gives them and as the templates give them. Outputs: changes, each a create or a merge-patch
with the resourceVersion it is based on.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from isotherm import contract, kube, tekton
from isotherm.deploy.routes import Route, describe, other

ATTEMPTS = 5
CREATE, PATCH, KEEP = "create", "patch", "keep"


@dataclass(frozen=True)
class Choice:
    """The colour that gets the model, and whether it has it already (reused) or even serves it to everybody
    (unchanged).
    """

    colour: str
    outcome: str


@dataclass(frozen=True)
class Change:
    """One object to create, patch or leave; `body` is the whole object or the merge-patch."""

    action: str
    kind: kube.Kind
    body: kube.Object
    stored: kube.Object | None = None

    @property
    def name(self) -> str:
        """Name of the object."""
        return str(self.body["metadata"]["name"])

    def summary(self) -> dict[str, str]:
        """The line that `deployment.json` keeps."""
        return {"action": self.action, "kind": self.kind.name, "name": self.name}


def choose_colour(route: Route | None, deployed: Mapping[str, str], digest: str, run_uid: str) -> Choice:
    """Pick the colour for a digest, given what each colour's InferenceService holds (empty: nothing).

    Raises `tekton.Refused` while another run shifts traffic, as the colour that it came from is its way back, and where
    the Route sends nobody anywhere.
    """
    if route is None:
        first = contract.COLOURS[0]
        return Choice(first, "reused" if deployed[first] == digest else "created")
    if route.shifting:
        ours = [colour for colour in contract.COLOURS if deployed[colour] == digest]
        if route.holder == run_uid and ours:
            return Choice(ours[0], "reused")
        raise tekton.Refused(
            f"{route} is being shifted ({describe(route.weights)}) by PipelineRun {route.holder or '(unknown)'}",
            remedy="wait for that run, or end its shift with the pipeline rollback",
        )
    if route.live is None:
        raise tekton.Refused(
            f"{route} sends no traffic at all ({describe(route.weights)})",
            remedy=f"say which colour is live, for example: oc set route-backends {route.name} blue=100 green=0",
        )
    if deployed[route.live] == digest:
        return Choice(route.live, "unchanged")
    idle = other(route.live)
    return Choice(idle, "reused" if deployed[idle] == digest else "created")


def runtime(stored: kube.Object | None, wanted: kube.Object) -> Change:
    """A ServingRuntime is made once per version of Isotherm. Raises `tekton.Refused` where it is there and differs."""
    if stored is None:
        return Change(CREATE, kube.SERVING_RUNTIME, wanted)
    if kube.contains(stored["spec"], wanted["spec"]):
        return Change(KEEP, kube.SERVING_RUNTIME, wanted, stored)
    name = wanted["metadata"]["name"]
    raise tekton.Refused(
        f"ServingRuntime {name} exists with another spec "
        f"({_first_difference(stored['spec'], wanted['spec'])}), and colours may run on it",
        remedy="give the predictor-image it has, or install another version of the catalog (a version names "
        "its own runtime)",
    )


def service(stored: kube.Object | None, wanted: kube.Object) -> Change:
    """A colour's Service is made once. Raises `tekton.Refused` where it selects other pods."""
    if stored is None:
        return Change(CREATE, kube.SERVICE, wanted)
    kube.refuse_foreign(kube.SERVICE, stored)
    selector, asked = stored["spec"].get("selector"), wanted["spec"]["selector"]
    if selector != asked:
        name = wanted["metadata"]["name"]
        raise tekton.Refused(
            f"Service {name} selects {selector}, not {asked}",
            remedy="give this model Services of its own by params service-blue and service-green",
        )
    return Change(KEEP, kube.SERVICE, wanted, stored)


def inference_service(stored: kube.Object | None, wanted: kube.Object) -> Change:
    """A colour's InferenceService takes the new model in place. Raises `tekton.Refused` where a controller owns it."""
    if stored is None:
        return Change(CREATE, kube.INFERENCE_SERVICE, wanted)
    kube.refuse_foreign(kube.INFERENCE_SERVICE, stored)
    return Change(KEEP if _holds(stored, wanted) else PATCH, kube.INFERENCE_SERVICE, wanted, stored)


def _holds(stored: kube.Object, wanted: kube.Object) -> bool:
    return all(kube.contains(stored.get(part), wanted[part]) for part in ("metadata", "spec"))


def apply(cluster: kube.Cluster, change: Change) -> None:
    """Carry a change out. Raises `kube.Conflict` where somebody else changed what the decision rested on."""
    if change.action == CREATE:
        cluster.create(change.kind, change.body)
    if change.action != PATCH or change.stored is None:
        return
    stored = change.stored
    patch = {part: change.body[part] for part in ("metadata", "spec")}
    for _ in range(ATTEMPTS):
        try:
            cluster.patch(change.kind, change.name, patch, stored["metadata"]["resourceVersion"])
            return
        except kube.Conflict:
            newer = cluster.get(change.kind, change.name)
            # Controllers write `status` all the time; only a change of what people and programs write is a conflict.
            if newer is None or newer["spec"] != stored["spec"] or _notes(newer) != _notes(stored):
                raise
            stored = newer
    raise kube.Conflict(f"{change.kind.name} {change.name} kept changing", remedy="run again")


def _notes(stored: kube.Object) -> dict[str, str]:
    """Isotherm's own annotations of an object."""
    annotations = stored["metadata"].get("annotations") or {}
    return {key: value for key, value in annotations.items() if key.startswith(contract.PREFIX)}


def diff(change: Change) -> str:
    """Show a change as a person would: `+` what comes, `-` what goes."""
    import yaml

    head = f"{change.action} {change.kind.name} {change.name}"
    if change.action == KEEP:
        return head
    after = yaml.safe_dump({part: change.body[part] for part in ("metadata", "spec")}, sort_keys=True).splitlines()
    before: list[str] = []
    if change.stored is not None:
        held = {part: _restricted(change.stored.get(part), change.body[part]) for part in ("metadata", "spec")}
        before = yaml.safe_dump(held, sort_keys=True).splitlines()
    lines = difflib.unified_diff(before, after, lineterm="", n=1)
    return "\n".join([head, *(f"  {line}" for line in lines if not line.startswith(("---", "+++", "@@")))])


def _restricted(stored: Any, wanted: Any) -> Any:
    """The part of what is stored that a change speaks about."""
    if isinstance(stored, Mapping) and isinstance(wanted, Mapping):
        return {key: _restricted(stored[key], value) for key, value in wanted.items() if key in stored}
    return stored


def _first_difference(stored: Any, wanted: Any, path: str = "spec") -> str:
    if isinstance(stored, Mapping) and isinstance(wanted, Mapping):
        key = next(key for key, value in wanted.items() if not kube.contains(stored.get(key), value))
        return _first_difference(stored.get(key), wanted[key], f"{path}.{key}")
    if isinstance(stored, list) and isinstance(wanted, list) and len(stored) == len(wanted):
        index = next(i for i, value in enumerate(wanted) if not kube.contains(stored[i], value))
        return _first_difference(stored[index], wanted[index], f"{path}[{index}]")
    return f"{path} is {stored!r}, not {wanted!r}"
