"""Rules that compare a Task's YAML with the source of its program: each side's inputs and results are the other's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from isotherm_local.lint.model import Catalog, Doc, Place, rule
from isotherm_local.lint.source import Program
from isotherm_local.lint.steps import upper_snake

# Set by an overlay, the image or the local target, not by the Task's own YAML.
AMBIENT = {"IMAGE_REF", "ISOTHERM_GIT_SHA", "HOME", "KUBECONFIG"}


def programs(catalog: Catalog) -> Iterator[tuple[Doc, Program]]:
    """Walk the Tasks whose command names a module that exists, with what its source says."""
    for doc in catalog.tasks.values():
        for _, step in doc.items("steps"):
            command = step.get("command") or []
            module = str(command[2]) if len(command) == 3 else ""
            if module and (catalog.root / "images" / f"{module.replace('.', '/')}.py").exists():
                yield doc, catalog.program(module)


def _env(doc: Doc) -> set[str]:
    return {item["name"] for _, step in doc.items("steps") for item in step.get("env") or ()}


@rule("param-unread")
def params_unread(catalog: Catalog) -> Iterable[Place]:
    """Every param is read by the program, and what it reads it uses."""
    for doc, program in programs(catalog):
        for keys, param in doc.items("params"):
            name, snake = param["name"], param["name"].replace("-", "_")
            if param.get("type", "string") == "array":
                if not program.takes_arguments:
                    yield (
                        doc,
                        keys,
                        (
                            f"param {name} comes as arguments, which {program.path.name} "
                            "does not parse; parse it or drop it"
                        ),
                    )
            elif snake in program.required:
                if snake not in program.used:
                    yield (
                        doc,
                        keys,
                        f"{program.path.name} reads {upper_snake(name)} and never uses it; use it or drop param {name}",
                    )
            elif upper_snake(name) not in program.optional:
                yield doc, keys, f"{program.path.name} does not read {upper_snake(name)}; read it or drop param {name}"


@rule("env-missing")
def env_missing(catalog: Catalog) -> Iterable[Place]:
    """Every variable that the program cannot do without is set by the Task."""
    for doc, program in programs(catalog):
        for name in sorted(program.required):
            if name.upper() not in _env(doc) | AMBIENT:
                yield (
                    doc,
                    ("spec", "steps", 0, "env"),
                    f"{program.path.name} reads {name.upper()}, which the Task does not set; add it",
                )
        for line in program.unresolved:
            yield (
                doc,
                ("spec", "steps"),
                f"{program.path.name} line {line} hides names from the linter; write them as keywords",
            )


@rule("workspace-unread")
def workspaces_unread(catalog: Catalog) -> Iterable[Place]:
    """Every workspace's path is read by the program."""
    for doc, program in programs(catalog):
        for keys, workspace in doc.items("workspaces"):
            variable = f"{upper_snake(workspace['name'])}_DIR"
            if variable.lower() not in program.required and variable not in program.optional:
                yield (
                    doc,
                    keys,
                    f"{program.path.name} does not read {variable}; read it or drop workspace {workspace['name']}",
                )


@rule("result-unwritten")
def results_unwritten(catalog: Catalog) -> Iterable[Place]:
    """A Task's results are those that its program gives: initial value first, a real one later."""
    for doc, program in programs(catalog):
        declared = {name.replace("-", "_"): name for name in doc.by_name("results")}
        for snake, name in declared.items():
            if snake not in program.results:
                yield (
                    doc,
                    ("spec", "results"),
                    f"{program.path.name} never writes result {name}; give it to tekton.results(...) or drop it",
                )
            elif snake not in program.assigned:
                yield (
                    doc,
                    ("spec", "results"),
                    f"{program.path.name} leaves result {name} at its initial value; set it or drop it",
                )
        for snake in sorted(set(program.results) - set(declared)):
            yield (
                doc,
                ("spec", "results"),
                (
                    f"{program.path.name} writes result {snake.replace('_', '-')}, "
                    "which the Task does not declare; declare it"
                ),
            )


@rule("results-first")
def results_first(catalog: Catalog) -> Iterable[Place]:
    """Results exist before the program does anything that may fail, the reading of its inputs included."""
    for doc, program in programs(catalog):
        if program.results_line > program.environment_line > 0:
            yield (
                doc,
                ("spec", "results"),
                f"{program.path.name} reads its inputs (line {program.environment_line}) before its results exist; "
                "enter tekton.results(...) first",
            )
