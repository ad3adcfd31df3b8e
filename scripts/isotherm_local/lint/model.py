"""The catalog as the rules see it: YAML documents with the line of each value, and what rules say about them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import yaml

from isotherm_local.lint.source import Program, read_program

Keys = tuple[str | int, ...]


class Broken(Exception):
    """A file of the catalog cannot be read as the one YAML document that it should be."""

    def __init__(self, path: Path, line: int, message: str) -> None:
        super().__init__(message)
        self.path, self.line = path, line


@dataclass(frozen=True, order=True)
class Finding:
    """One line of the linter's output: where, which rule, and what to do."""

    path: str
    line: int
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.message}"


@dataclass(frozen=True)
class Doc:
    """One YAML document: its data and the line (from 1) at which each value stands."""

    path: Path
    data: dict[str, Any]
    lines: dict[Keys, int] = field(repr=False)

    @property
    def name(self) -> str:
        """`metadata.name`, or what stands for it in an example run."""
        metadata = self.data.get("metadata") or {}
        return str(metadata.get("name") or metadata.get("generateName") or "")

    @property
    def spec(self) -> dict[str, Any]:
        """`spec`, empty where there is none."""
        return self.data.get("spec") or {}

    def items(self, *keys: str) -> Iterator[tuple[Keys, dict[str, Any]]]:
        """Walk a list under `spec` with the keys of each item: `(("spec", "params", 0), {...})`, and so on."""
        value: Any = self.spec
        for key in keys:
            value = value.get(key) or {}
        for index, item in enumerate(value or ()):
            yield ("spec", *keys, index), item

    def by_name(self, *keys: str) -> dict[str, dict[str, Any]]:
        """Index a list under `spec` by its items' `name`."""
        return {item["name"]: item for _, item in self.items(*keys)}

    def line(self, keys: Keys) -> int:
        """Line of a value, or of the nearest thing around it that exists."""
        while keys and keys not in self.lines:
            keys = keys[:-1]
        return self.lines.get(keys, 1)


def _lines(node: yaml.Node, keys: Keys, found: dict[Keys, int]) -> None:
    found[keys] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            _lines(value, (*keys, key.value), found)
            found[(*keys, key.value)] = key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _lines(value, (*keys, index), found)


def read_documents(path: Path) -> list[Doc]:
    """Read every YAML document of a file. Raises `Broken` where it is not YAML or a document is not a mapping."""
    loader = yaml.CSafeLoader(path.read_text(encoding="utf-8"))
    documents = []
    try:
        while loader.check_node():
            node = cast(yaml.Node, loader.get_node())
            lines: dict[Keys, int] = {}
            _lines(node, (), lines)
            data = loader.construct_document(node)
            if not isinstance(data, dict):
                raise Broken(path, lines[()], "a document is not a mapping; write one object per document")
            documents.append(Doc(path, data, lines))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        raise Broken(path, line, f"is not YAML ({getattr(error, 'problem', None) or error}); mend it") from error
    finally:
        loader.dispose()
    return documents


def read_document(path: Path) -> Doc:
    """Read a file that must hold exactly one document. Raises `Broken` otherwise."""
    documents = read_documents(path)
    if len(documents) != 1:
        raise Broken(path, 1, f"holds {len(documents)} documents; give each object a file of its own")
    return documents[0]


class Catalog:
    """What lies under the root of a checkout; read once, on first use."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._programs: dict[str, Program] = {}

    def _folders(self, room: str) -> list[Path]:
        return sorted(path for path in (self.root / room).iterdir() if path.is_dir())

    def _room(self, room: str) -> dict[str, Doc]:
        paths = [folder / f"{folder.name}.yaml" for folder in self._folders(room)]
        return {path.stem: read_document(path) for path in paths if path.exists()}

    @cached_property
    def tasks(self) -> dict[str, Doc]:
        """Tasks by folder name."""
        return self._room("tasks")

    @cached_property
    def pipelines(self) -> dict[str, Doc]:
        """Pipelines by folder name."""
        return self._room("pipelines")

    @cached_property
    def runs(self) -> list[Doc]:
        """Example PipelineRuns."""
        return [read_document(path) for path in sorted(self.root.glob("pipelines/*/runs/*.yaml"))]

    @cached_property
    def rbac(self) -> dict[str, list[Doc]]:
        """Objects of each Task's rbac.yaml, by folder name."""
        paths = [folder / "rbac.yaml" for folder in self._folders("tasks")]
        return {path.parent.name: read_documents(path) for path in paths if path.exists()}

    def program(self, module: str) -> Program:
        """What the source of a step's module says, read once."""
        if module not in self._programs:
            self._programs[module] = read_program(self.root / "images", module)
        return self._programs[module]

    @property
    def published(self) -> Iterator[Doc]:
        """Tasks and Pipelines: what the catalog offers."""
        yield from self.tasks.values()
        yield from self.pipelines.values()

    def relative(self, path: Path) -> str:
        """A path as findings show it."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.as_posix()

    def yaml_files(self) -> list[Path]:
        """Every YAML file of the catalog."""
        rooms = [self.root / room for room in ("tasks", "pipelines", "rollout", "triggers", "overlays")]
        files = [path for room in rooms for path in room.rglob("*") if path.suffix in (".yaml", ".yml")]
        return sorted([*self.root.glob("*.yaml"), *files])


Place = tuple[Doc | Path, Keys, str]
Check = Callable[[Catalog], Iterable[Place]]


@dataclass(frozen=True)
class Rule:
    """A check with the id under which it is known and the sentence that it enforces."""

    id: str
    says: str
    check: Check

    def run(self, catalog: Catalog) -> Iterator[Finding]:
        """Apply the rule; a document of an unforeseen shape is a finding, not a crash."""
        try:
            for place, keys, message in self.check(catalog):
                path, line = (place.path, place.line(keys)) if isinstance(place, Doc) else (place, 1)
                yield Finding(catalog.relative(path), line, self.id, message)
        except Broken as error:
            yield Finding(catalog.relative(error.path), error.line, "yaml", str(error))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            why = f"{type(error).__name__}: {error}"
            yield Finding(
                "", 0, self.id, f"a document has an unforeseen shape ({why}); compare it with Tekton's reference"
            )


RULES: dict[str, Rule] = {}


def rule(identifier: str) -> Callable[[Check], Check]:
    """Register a check under an id; its docstring is the sentence that it enforces.

    A check yields `(document or file, keys of the value, message with remedy)`.
    """

    def register(check: Check) -> Check:
        if identifier in RULES:
            raise ValueError(f"rule {identifier} is defined twice")
        RULES[identifier] = Rule(identifier, " ".join((check.__doc__ or "").split()), check)
        return check

    return register
