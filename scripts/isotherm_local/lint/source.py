"""What a program's source says about its inputs and outputs, found without running or importing it.

A program is the module that a step runs and the modules of the package that it imports. Inputs are the keywords of
`tekton.environment(...)` and constant names asked of `os.environ`; outputs are the keywords of `tekton.results(...)`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

PACKAGE = "isotherm"
ASKED = ("os.environ.get", "os.getenv")
# Shared by all programs: what these two read, they read for whoever asks.
SHARED = {f"{PACKAGE}.tekton", f"{PACKAGE}.contract"}


@dataclass
class Program:
    """A step's module: its path, required and optional variables, results, and the names that its code uses."""

    path: Path
    required: dict[str, int] = field(default_factory=dict)  # name of a keyword of environment() -> line
    optional: dict[str, int] = field(default_factory=dict)  # name of a variable asked of os.environ -> line
    results: dict[str, int] = field(default_factory=dict)
    assigned: set[str] = field(default_factory=set)
    used: set[str] = field(default_factory=set)
    takes_arguments: bool = False
    unresolved: list[int] = field(default_factory=list)
    results_line: int = 0
    environment_line: int = 0


@dataclass(frozen=True, eq=False)
class Source:
    """A parsed file: its text, its statements, and all of its nodes in one list, because every question walks them."""

    text: str
    body: list[ast.stmt]
    nodes: tuple[ast.AST, ...]


@cache
def _parse(path: Path, modified: int) -> Source:  # noqa: ARG001 (part of the cache's key)
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text, filename=str(path))
    return Source(text, tree.body, tuple(ast.walk(tree)))


def parse(path: Path) -> Source:
    """Parse a source file, once per version of it."""
    return _parse(path, path.stat().st_mtime_ns)


def module_path(images: Path, module: str) -> Path | None:
    """Find the file of a module or package under `images`."""
    base = images / module.replace(".", "/")
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.exists()), None)


def imports(tree: Source, images: Path) -> Iterator[str]:
    """Name the package's own modules that a module imports, anywhere in it."""
    for node in tree.nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith(f"{PACKAGE}."))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == PACKAGE:
            yield node.module
            inner = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name for name in inner if module_path(images, name))


def closure(images: Path, module: str) -> dict[str, Source]:
    """Parse a module and all of the package that it imports, directly or not."""
    trees: dict[str, Source] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = module_path(images, name)
        if name in trees or path is None:
            continue
        trees[name] = parse(path)
        waiting += imports(trees[name], images)
    return trees


def _dotted(node: ast.expr) -> str:
    """Spell a name with its dots, `os.environ.get`; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        inner = _dotted(node.value)
        return f"{inner}.{node.attr}" if inner else ""
    return ""


def _is_program(tree: Source) -> bool:
    return any(isinstance(node, ast.If) and "__main__" in ast.dump(node.test) for node in tree.body)


def _constants(trees: dict[str, Source]) -> dict[str, ast.expr]:
    """Collect what names are given, at the top of modules and inside functions."""
    found: dict[str, ast.expr] = {}
    for tree in trees.values():
        for node in tree.nodes:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                found[node.targets[0].id] = node.value
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
                found[node.target.id] = node.value
    return found


def _text(node: ast.expr, constants: dict[str, ast.expr]) -> str | None:
    """Resolve a string: a literal, or a constant of this or another module by its last name."""
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None
    if name is not None and name in constants:
        node = constants[name]
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _keywords(call: ast.Call, constants: dict[str, ast.expr]) -> tuple[dict[str, int], bool]:
    """Collect a call's keywords, looking into `**CONSTANT`; the flag tells whether all could be resolved."""
    names, complete = {}, True
    for keyword in call.keywords:
        if keyword.arg:
            names[keyword.arg] = keyword.value.lineno
            continue
        value = keyword.value
        if isinstance(value, ast.Name):
            value = constants.get(value.id, value)
        texts = _dict_keys(value, constants)
        names |= {text: keyword.value.lineno for text in texts if text}
        complete = complete and bool(texts) and all(texts)
    return names, complete


def _dict_keys(value: ast.expr, constants: dict[str, ast.expr]) -> list[str | None]:
    """List the keys of `{...}`, `dict(...)` or `dict.fromkeys((...), ...)`; None where one is no constant text."""
    if isinstance(value, ast.Dict):
        return [_text(key, constants) if key else None for key in value.keys]
    if isinstance(value, ast.Call) and _dotted(value.func) == "dict":
        return [keyword.arg for keyword in value.keywords]
    if isinstance(value, ast.Call) and _dotted(value.func) == "dict.fromkeys" and value.args:
        keys = value.args[0]
        return (
            [_text(key, constants) for key in keys.elts] if isinstance(keys, ast.Tuple | ast.List | ast.Set) else [None]
        )
    return [None]


def _called(node: ast.AST) -> str:
    """Name of what a call calls: `tekton.results` and `results` both give `results`."""
    if not isinstance(node, ast.Call):
        return ""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _askers(trees: dict[str, Source]) -> dict[str, int]:
    """Find functions that ask `os.environ` for the name they are given: function -> position of that argument."""
    found = {}
    for tree in trees.values():
        for node in tree.nodes if "environ" in tree.text or "getenv" in tree.text else ():
            if not isinstance(node, ast.FunctionDef):
                continue
            names = [argument.arg for argument in node.args.args]
            for inner in ast.walk(node):
                if isinstance(inner, ast.Call) and _dotted(inner.func) in ASKED and inner.args:
                    asked = _dotted(inner.args[0])
                    if asked in names:
                        found[node.name] = names.index(asked)
    return found


def _environ_name(node: ast.AST, constants: dict[str, ast.expr], askers: dict[str, int]) -> tuple[str, bool] | None:
    """Return `(NAME, required)` where a node reads `os.environ[NAME]`, or asks for NAME directly or by a function."""
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load) and _dotted(node.value) == "os.environ":
        name = _text(node.slice, constants)
        return (name, True) if name else None
    if not isinstance(node, ast.Call):
        return None
    position = 0 if _dotted(node.func) in ASKED else askers.get(_called(node), -1)
    if 0 <= position < len(node.args):
        name = _text(node.args[position], constants)
        return (name, False) if name else None
    return None


def _input_names(trees: dict[str, Source]) -> set[str]:
    """Name what holds the inputs: variables assigned from `tekton.environment(...)`, and SimpleNamespace arguments."""
    names = set()
    for tree in trees.values():
        for node in tree.nodes:
            if isinstance(node, ast.Assign) and _called(node.value) == "environment":
                names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
            elif isinstance(node, ast.arg) and node.annotation and "SimpleNamespace" in ast.unparse(node.annotation):
                names.add(node.arg)
    return names


def _visit_shared(program: Program, node: ast.AST, inputs: set[str]) -> None:
    if isinstance(node, ast.Attribute):
        if isinstance(node.ctx, ast.Store):
            program.assigned.add(node.attr)
        elif isinstance(node.value, ast.Name) and node.value.id in inputs:
            program.used.add(node.attr)
    elif isinstance(node, ast.Call) and _dotted(node.func) == "vars" and _dotted(node.args[0]) in inputs:
        program.used |= set(program.required)  # all of them travel on together
    elif _called(node) in ("add_argument", "parse_args") or (isinstance(node, ast.Name) and node.id == "argv"):
        program.takes_arguments = True


def _visit_own(program: Program, node: ast.AST, constants: dict[str, ast.expr]) -> None:
    called = _called(node)
    if isinstance(node, ast.Call) and called in ("environment", "results") and "tekton" in _dotted(node.func):
        names, complete = _keywords(node, constants)
        target = program.required if called == "environment" else program.results
        target.update(names)
        first = getattr(program, f"{called}_line") or node.lineno
        setattr(program, f"{called}_line", min(first, node.lineno))
        if not complete:
            program.unresolved.append(node.lineno)


def read_program(images: Path, module: str) -> Program:
    """Read what a step's module takes and gives."""
    trees = closure(images, module)
    path = module_path(images, module)
    if path is None:
        raise ValueError(f"module {module} is not under {images}")
    program, constants, askers, inputs = Program(path), _constants(trees), _askers(trees), _input_names(trees)
    for name, tree in trees.items():
        if name in SHARED:
            continue
        own = name == module or not _is_program(tree)
        for node in tree.nodes:
            _visit_shared(program, node, inputs)
            if not own:
                continue
            _visit_own(program, node, constants)
            read = _environ_name(node, constants, askers)
            if read:
                target = program.required if read[1] else program.optional
                target[read[0].lower() if read[1] else read[0]] = getattr(node, "lineno", 0)
    return program
