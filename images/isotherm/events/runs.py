"""The runs that events make: found by name and label, created from the TriggerTemplate that the listener uses too.

Reads   TriggerTemplate (its params and its one PipelineRun), PipelineRun
Writes  PipelineRun, by create under a fixed name: the API server refuses the second one
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from isotherm import contract, kube, tekton

_PARAM = re.compile(r"\$\(tt\.params\.([_a-zA-Z][_a-zA-Z0-9.-]*)\)")
_LEFT_OVER = re.compile(r"\$\((tt\.|uid\))")


@dataclass(frozen=True)
class Wanted:
    """A run to create: its key, and what the template gets and must show for it.

    `name` is that of a later run for the key, where those before were not admitted; empty, the key itself.
    """

    key: str
    event: str
    template: str
    values: Mapping[str, str]
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


def fill(template: kube.Object, values: Mapping[str, str]) -> kube.Object:
    """Fill the PipelineRun of a TriggerTemplate as the listener does.

    Raises `tekton.Refused` on a template without exactly one PipelineRun, or with a param that nobody gives.
    """
    name, spec = template["metadata"]["name"], template.get("spec") or {}
    resources = spec.get("resourcetemplates") or []
    if [(one.get("apiVersion"), one.get("kind")) for one in resources] != [
        (kube.PIPELINE_RUN.api_version, kube.PIPELINE_RUN.name)
    ]:
        raise tekton.Refused(
            f"TriggerTemplate {name} does not make exactly one {kube.PIPELINE_RUN.api_version} PipelineRun",
            remedy="name the template of a trigger of this catalog",
        )
    declared = {param["name"]: param.get("default") for param in spec.get("params") or []}
    given = {param: values.get(param, default) for param, default in declared.items()}
    missing = sorted(param for param, value in given.items() if value is None)
    if missing:
        raise tekton.Refused(
            f"TriggerTemplate {name} wants param {', '.join(missing)}, which the reconciler does not know",
            remedy=f"give it a default; known are {', '.join(sorted(values))}",
        )
    texts = {param: json.dumps(value)[1:-1] for param, value in given.items()}
    text = _PARAM.sub(lambda found: texts.get(found[1], found[0]), json.dumps(resources[0]))
    if _LEFT_OVER.search(text):
        raise tekton.Refused(f"TriggerTemplate {name} uses what it does not declare", remedy="declare its params")
    filled: kube.Object = json.loads(text)
    return filled


def finished(run: kube.Object) -> str:
    """`True` or `False` as the run succeeded or not; empty while it is not finished."""
    for condition in (run.get("status") or {}).get("conditions") or []:
        if condition.get("type") == "Succeeded" and condition.get("status") in ("True", "False"):
            return str(condition["status"])
    return ""


class Runs:
    """The PipelineRuns of a namespace, as far as events make them. `created` names those that this process made."""

    def __init__(self, cluster: kube.Cluster, say: Callable[[str], None] = lambda _: None) -> None:
        self.cluster, self.say = cluster, say
        self.created: list[str] = []

    def get(self, name: str) -> kube.Object | None:
        """Read a run; None where there is none."""
        return self.cluster.get(kube.PIPELINE_RUN, name)

    def watched(self, watch: str) -> list[kube.Object]:
        """Every run of a watched branch that was not pruned yet."""
        return self.cluster.list(kube.PIPELINE_RUN, f"{contract.LABEL_WATCH}={watch}")

    def create(self, wanted: Wanted) -> bool:
        """Create a run; False where its name is taken already, which is as good.

        Raises `tekton.Refused` on a TriggerTemplate that is absent, or whose run would not be found again.
        """
        template = self.cluster.get(kube.TRIGGER_TEMPLATE, wanted.template)
        if template is None:
            raise tekton.Refused(
                f"there is no TriggerTemplate {wanted.template} in namespace {self.cluster.namespace}",
                remedy="install triggers/, or correct the reconciler's configuration",
            )
        body = fill(template, {**wanted.values, "name": wanted.key})
        _check(body, wanted)
        name = wanted.name or wanted.key
        body["metadata"]["name"] = name
        body["metadata"]["annotations"][contract.ANNOTATION_RECOVERED] = "true"
        try:
            self.cluster.create(kube.PIPELINE_RUN, body)
        except kube.Conflict:
            self.say(f"{wanted.event}: {name} was there already")
            return False
        self.created.append(name)
        self.say(f"{wanted.event}: created {name}")
        return True


def _check(body: kube.Object, wanted: Wanted) -> None:
    """Make sure that the template's run carries what the next pass looks for: else it would be made for ever."""
    needed = {
        "labels": {contract.LABEL_PART_OF: contract.PART_OF, contract.LABEL_EVENT: wanted.event, **wanted.labels},
        "annotations": {contract.ANNOTATION_EVENT_KEY: wanted.key, **wanted.annotations},
    }
    metadata = body.get("metadata") or {}
    wrong = [f"name {metadata.get('name')!r}"] if metadata.get("name") != wanted.key else []
    for part, values in needed.items():
        held = metadata.get(part) or {}
        wrong += [f"{part[:-1]} {key} {held.get(key)!r}" for key, value in values.items() if held.get(key) != value]
    if not wrong:
        return
    raise tekton.Refused(
        f"TriggerTemplate {wanted.template} would give run {wanted.key} the {', '.join(wrong)}",
        remedy="name the run by param name, and give it the catalog's labels and annotations",
    )
