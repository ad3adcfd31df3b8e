"""Write the generated part of each Task's and Pipeline's README.md: what the YAML says, as tables.

Reads  tasks/*/*.yaml, pipelines/*/*.yaml
Writes the part between the two markers of README.md beside each; what people wrote before and after it stays
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from isotherm_local.lint.graph import Graph
from isotherm_local.lint.model import Catalog, Doc

BEGIN = "<!-- generated from the YAML by `isotherm lint --fix`; edit below the end marker -->"
END = "<!-- end of the generated part -->"


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _table(heads: list[str], rows: list[list[object]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    yield from (f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows)
    yield ""


def _default(param: dict[str, Any]) -> str:
    if "default" not in param:
        return "required"
    return f"`{param['default']}`" if param["default"] != "" else "empty"


def _interface(doc: Doc) -> Iterator[str]:
    params = [
        [f"`{p['name']}`", p.get("type", "string"), _default(p), p["description"]] for _, p in doc.items("params")
    ]
    workspaces = []
    for _, item in doc.items("workspaces"):
        marks = [word for word, key in (("optional", "optional"), ("read-only", "readOnly")) if item.get(key)]
        workspaces.append([f"`{item['name']}`", ", ".join(marks) or "required", item["description"]])
    results = [[f"`{item['name']}`", item["description"]] for _, item in doc.items("results")]
    if params:
        yield from ("## Params", "", *_table(["name", "type", "default", "meaning"], params))
    if workspaces:
        yield from ("## Workspaces", "", *_table(["name", "", "holds"], workspaces))
    if results:
        yield from ("## Results", "", *_table(["name", "meaning"], results))


def _task(doc: Doc) -> Iterator[str]:
    step = doc.spec["steps"][0]
    requests = step["computeResources"]["requests"]
    needs = f"Requests {requests['cpu']} CPU and {requests['memory']} of memory"
    yield (
        f"Runs `{' '.join(step['command'])}` in image `{step['image']}`. "
        f"{needs}; the step ends after {step['timeout']}."
    )
    yield ""


def _pipeline(doc: Doc) -> Iterator[str]:
    graph = Graph(doc)
    yield from ("```mermaid", "flowchart LR")
    for name, task in graph.tasks.items():
        yield f"  {name}[{name}<br/><small>{task['taskRef']['name']}</small>]"
        gate = {source for source in graph.by_result[name] if f"tasks.{source}.results." in str(task.get("when"))}
        # One arrow per Task is enough for the eye: from those that nothing in between already waits for.
        nearest = {
            one for one in graph.before[name] if not any(one in graph.ancestors(o) for o in graph.before[name] - {one})
        }
        yield from (f"  {one} -->{'|when|' if one in gate else ''} {name}" for one in sorted(nearest | gate))
    for _, task in doc.items("finally"):
        yield f"  {task['name']}([{task['name']}<br/><small>{task['taskRef']['name']}, finally</small>])"
    yield from ("```", "")
    rows: list[list[object]] = []
    for section in ("tasks", "finally"):
        for _, task in doc.items(section):
            ref = task["taskRef"]["name"]
            rows.append(
                [f"`{task['name']}`", f"[{ref}](../../tasks/{ref}/README.md)", task["timeout"], task.get("retries", 0)]
            )
    yield from _table(["task", "Task", "timeout", "retries"], rows)


def generated(doc: Doc) -> str:
    """Render the generated part of one README, markers included."""
    labels, annotations = doc.data["metadata"]["labels"], doc.data["metadata"]["annotations"]
    first, _, rest = doc.spec["description"].strip().partition("\n")
    lines = [
        BEGIN,
        f"# {doc.name}",
        "",
        (
            f"**{annotations['tekton.dev/displayName']}** ({doc.data['kind']}, "
            f"version {labels['app.kubernetes.io/version']})"
        ),
    ]
    lines += ["", first.strip(), "", *([rest.strip(), ""] if rest.strip() else [])]
    lines += _task(doc) if doc.data["kind"] == "Task" else _pipeline(doc)
    lines += [*_interface(doc), END]
    return "\n".join(lines)


def expected(doc: Doc) -> str:
    """Return README.md as it should be: the generated part, then what people wrote after it."""
    path = doc.path.parent / "README.md"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    _, marker, tail = text.partition(END)
    return generated(doc) + (tail if marker else f"\n{text}" if text else "\n")


def stale(catalog: Catalog) -> Iterator[tuple[Doc, Path]]:
    """Walk the Tasks and Pipelines whose README differs from what their YAML says."""
    for doc in catalog.published:
        path = doc.path.parent / "README.md"
        if not path.exists() or path.read_text(encoding="utf-8") != expected(doc):
            yield doc, path


def rewrite(catalog: Catalog) -> list[Path]:
    """Write every README that is out of date; return their paths."""
    written = []
    for doc, path in list(stale(catalog)):
        path.write_text(expected(doc), encoding="utf-8")
        written.append(path)
    return written
