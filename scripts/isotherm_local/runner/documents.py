"""Load Tekton's YAML with the line of every field, and find Tasks and Pipelines by name.

Reads  YAML files of one or more documents; `tasks/NAME/NAME.yaml` and `pipelines/NAME/NAME.yaml` of a checkout
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from isotherm.tekton import BadInput

KINDS = ("Task", "Pipeline", "PipelineRun", "TaskRun")
API_VERSION = "tekton.dev/v1"
ROOT = Path(__file__).resolve().parents[3]
FOLDERS = {"Task": "tasks", "Pipeline": "pipelines"}

FieldPath = tuple[str | int, ...]


def dotted(path: FieldPath) -> str:
    """Write a field's path as people do: `spec.steps[0].image`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


@dataclass(frozen=True)
class Document:
    """One YAML document of a Tekton kind and the line on which each of its fields stands."""

    file: Path
    kind: str
    name: str
    body: dict[str, Any]
    lines: Mapping[FieldPath, int]

    def where(self, path: FieldPath = ()) -> str:
        """Name the file and line of a field, or of its nearest parent."""
        while path and path not in self.lines:
            path = path[:-1]
        return f"{shown(self.file)}:{self.lines.get(path, 1)}"


def shown(file: Path) -> str:
    """Shorten a path to one relative to the working directory where that is possible."""
    try:
        return str(file.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(file)


def _plain(node: yaml.Node, path: FieldPath, lines: dict[FieldPath, int], file: Path) -> Any:
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, line = str(key_node.value), key_node.start_mark.line + 1
            if key in mapping:
                raise BadInput(
                    f"{shown(file)}:{line}: {dotted((*path, key))} is given twice", remedy="keep one of them"
                )
            lines[(*path, key)] = line
            mapping[key] = _plain(value_node, (*path, key), lines, file)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        items = []
        for index, item in enumerate(node.value):
            lines[(*path, index)] = item.start_mark.line + 1
            items.append(_plain(item, (*path, index), lines, file))
        return items
    # Kubernetes reads a date as text.
    if node.tag == "tag:yaml.org,2002:timestamp":
        return node.value
    return yaml.constructor.SafeConstructor().construct_object(node)


def load(file: Path) -> list[Document]:
    """Read every document of a YAML file; documents of kinds that Tekton's runner has no use for are left out.

    Raises `BadInput` where the file cannot be read, is not YAML, repeats a key or has a kind of another API version.
    """
    try:
        nodes = list(yaml.compose_all(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadInput(f"{shown(file)} cannot be read ({reason})", remedy="give the path of a YAML file") from error
    except yaml.YAMLError as error:
        raise BadInput(
            f"{shown(file)} is not YAML ({' '.join(str(error).split())[:300]})", remedy="correct the file"
        ) from error
    documents = []
    for node in nodes:
        if not isinstance(node, yaml.MappingNode):
            continue
        lines: dict[FieldPath, int] = {(): node.start_mark.line + 1}
        body = _plain(node, (), lines, file)
        kind, metadata = str(body.get("kind")), body.get("metadata")
        if kind not in KINDS:
            continue
        if body.get("apiVersion") != API_VERSION:
            where = f"{shown(file)}:{lines.get(('apiVersion',), lines[()])}"
            raise BadInput(
                f"{where}: {kind} of apiVersion {body.get('apiVersion')!r} is not known",
                remedy=f"use apiVersion: {API_VERSION}",
            )
        name = str(metadata.get("name", "")) if isinstance(metadata, dict) else ""
        documents.append(Document(file, kind, name, body, lines))
    return documents


class Catalog:
    """The Tasks and Pipelines that names can refer to: given documents first, then the checkout's own."""

    def __init__(self, root: Path, documents: Iterable[Document] = ()) -> None:
        self._root = root
        self._given: dict[tuple[str, str], Document] = {}
        for document in documents:
            key = (document.kind, document.name)
            if document.kind in FOLDERS and key in self._given:
                other = self._given[key].where()
                raise BadInput(
                    f"{document.where()}: {document.kind} {document.name} is also in {other}", remedy="give one of them"
                )
            self._given[key] = document

    def find(self, kind: str, name: str, asked_by: str) -> Document:
        """Find the Task or Pipeline `name`; `asked_by` says where the name stands.

        Raises `BadInput` where there is none.
        """
        if (kind, name) in self._given:
            return self._given[(kind, name)]
        file = self._root / FOLDERS[kind] / name / f"{name}.yaml"
        if name and "/" not in name and file.is_file():
            for document in load(file):
                if (document.kind, document.name) == (kind, name):
                    return document
        raise BadInput(
            f"{asked_by}: {kind} {name!r} does not exist in {FOLDERS[kind]}/ nor in the files given",
            remedy=f"correct the name or give its file with -f (there are: {', '.join(self.names(kind)) or 'none'})",
        )

    def names(self, kind: str) -> list[str]:
        """List the names of a kind, for messages."""
        own = {
            file.parent.name for file in (self._root / FOLDERS[kind]).glob("*/*.yaml") if file.stem == file.parent.name
        }
        return sorted(own | {name for k, name in self._given if k == kind})
