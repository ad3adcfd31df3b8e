"""Rules about example PipelineRuns: each works as it stands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from isotherm_local.lint.durations import seconds
from isotherm_local.lint.graph import Graph
from isotherm_local.lint.model import Catalog, Doc, Place, rule


def runs(catalog: Catalog) -> Iterator[tuple[Doc, Doc]]:
    """Walk the example runs whose Pipeline the catalog has."""
    for doc in catalog.runs:
        pipeline = catalog.pipelines.get((doc.spec.get("pipelineRef") or {}).get("name", ""))
        if pipeline:
            yield doc, pipeline


@rule("run-exists")
def runs_exist(catalog: Catalog) -> Iterable[Place]:
    """Every Pipeline has an example run, which names it."""
    named = {pipeline.name for _, pipeline in runs(catalog)}
    for name, pipeline in catalog.pipelines.items():
        if name not in named:
            yield pipeline, (), f"has no example under {pipeline.path.parent.name}/runs/; add a PipelineRun that works"
    for doc in catalog.runs:
        folder = doc.path.parent.parent.name
        if (doc.data.get("kind"), (doc.spec.get("pipelineRef") or {}).get("name")) != ("PipelineRun", folder):
            yield doc, ("spec", "pipelineRef"), f"is not a PipelineRun of {folder}; move or mend it"


@rule("run-params")
def run_params(catalog: Catalog) -> Iterable[Place]:
    """An example run gives every required param, no unknown one, and the right type."""
    for doc, pipeline in runs(catalog):
        declared, given = pipeline.by_name("params"), doc.by_name("params")
        for name, param in declared.items():
            if "default" not in param and name not in given:
                yield doc, ("spec", "params"), f"gives no {name}, which {pipeline.name} requires; add it"
        for keys, param in doc.items("params"):
            wanted = declared.get(param["name"])
            if wanted is None:
                yield doc, keys, f"{pipeline.name} has no param {param['name']}; drop it"
            elif isinstance(param.get("value"), list) != (wanted.get("type") == "array") or not isinstance(
                param.get("value"), list | str
            ):
                yield (
                    doc,
                    keys,
                    f"{param['name']} is of type {wanted.get('type', 'string')}; quote the value or give that type",
                )


@rule("run-workspaces")
def run_workspaces(catalog: Catalog) -> Iterable[Place]:
    """An example run binds every required workspace, and the volume is a claim with a name."""
    for doc, pipeline in runs(catalog):
        declared, given = pipeline.by_name("workspaces"), doc.by_name("workspaces")
        for name, workspace in declared.items():
            if name not in given and not workspace.get("optional"):
                yield doc, ("spec", "workspaces"), f"binds no {name}; add it"
            claim = (given.get(name, {}).get("persistentVolumeClaim") or {}).get("claimName")
            if name in given and not workspace.get("optional") and not claim:
                yield (
                    doc,
                    ("spec", "workspaces"),
                    (
                        f"{name} is no named claim, so a second run finds nothing of "
                        "the first; name a persistentVolumeClaim"
                    ),
                )
        for keys, workspace in doc.items("workspaces"):
            if workspace["name"] not in declared:
                yield doc, keys, f"{pipeline.name} has no workspace {workspace['name']}; drop it"


@rule("run-claims")
def run_claims(catalog: Catalog) -> Iterable[Place]:
    """A run gives no Task two claims and no claim to two workspaces: Tekton's affinity assistant refuses the one, and
    starts no pod of the other.
    """
    for doc, pipeline in runs(catalog):
        claim_of = {
            name: claim
            for name, bound in doc.by_name("workspaces").items()
            if (claim := (bound.get("persistentVolumeClaim") or {}).get("claimName"))
        }
        for claim in sorted({claim for claim in claim_of.values() if list(claim_of.values()).count(claim) > 1}):
            names = ", ".join(name for name, other in claim_of.items() if other == claim)
            yield doc, ("spec", "workspaces"), f"binds claim {claim} as {names}; bind it once and use its folders"
        for section in ("tasks", "finally"):
            for _, task in pipeline.items(section):
                used = [one.get("workspace", one["name"]) for one in task.get("workspaces") or []]
                claims = sorted({claim_of[name] for name in used if name in claim_of})
                if len(claims) > 1:
                    yield (
                        doc,
                        ("spec", "workspaces"),
                        f"gives {task['name']} the claims {', '.join(claims)}; give it folders of one",
                    )


@rule("run-timeouts")
def run_timeouts(catalog: Catalog) -> Iterable[Place]:
    """A run sets timeouts.tasks and timeouts.finally, long enough for its Tasks, together within timeouts.pipeline."""
    for doc, pipeline in runs(catalog):
        at = ("spec", "timeouts")
        given = {name: seconds((doc.spec.get("timeouts") or {}).get(name)) for name in ("pipeline", "tasks", "finally")}
        missing = [name for name, value in given.items() if value <= 0]
        if missing:
            yield (
                doc,
                at,
                f"sets no timeouts.{', '.join(missing)}; without them a hanging Task takes the time of finally",
            )
            continue
        if given["tasks"] + given["finally"] > given["pipeline"]:
            yield doc, at, "tasks and finally together exceed timeouts.pipeline; raise it"
        if given["tasks"] < _longest(Graph(pipeline)):
            yield (
                doc,
                at,
                (
                    "timeouts.tasks is shorter than the longest chain of Tasks "
                    f"({_longest(Graph(pipeline)) / 60:.0f} min); raise it"
                ),
            )
        if given["finally"] < max((seconds(task.get("timeout")) for _, task in pipeline.items("finally")), default=0):
            yield doc, at, "timeouts.finally is shorter than a finally Task's; raise it"


def _longest(graph: Graph) -> float:
    """Sum the timeouts along the slowest chain, each Task run once."""
    memo: dict[str, float] = {}

    def until(name: str, above: frozenset[str]) -> float:
        if name in above or name not in graph.tasks:
            return 0.0
        if name not in memo:
            earlier = max((until(other, above | {name}) for other in graph.before[name]), default=0.0)
            memo[name] = earlier + seconds(graph.tasks[name].get("timeout"))
        return memo[name]

    return max((until(name, frozenset()) for name in graph.tasks), default=0.0)


@rule("run-accounts")
def run_accounts(catalog: Catalog) -> Iterable[Place]:
    """A run gives each Task the ServiceAccount of its own name."""
    for doc, pipeline in runs(catalog):
        wanted = {
            task["name"]: (task.get("taskRef") or {}).get("name")
            for section in ("tasks", "finally")
            for _, task in pipeline.items(section)
        }
        given = {
            item["pipelineTaskName"]: item.get("serviceAccountName") for item in doc.spec.get("taskRunSpecs") or ()
        }
        for name, account in wanted.items():
            if given.get(name) != account:
                yield (
                    doc,
                    ("spec", "taskRunSpecs"),
                    (
                        f"{name} runs as {given.get(name)}; add "
                        f"{{pipelineTaskName: {name}, serviceAccountName: {account}}}"
                    ),
                )
        for name in sorted(set(given) - set(wanted)):
            yield doc, ("spec", "taskRunSpecs"), f"names {name}, which {pipeline.name} does not have; drop it"
