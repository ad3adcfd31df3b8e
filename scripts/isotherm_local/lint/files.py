"""Rules about files, names and metadata of Tasks and Pipelines."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import yaml

from isotherm_local.lint.model import Broken, Catalog, Doc, Place, read_document, read_documents, rule

VERSION_LABEL = "app.kubernetes.io/version"
SEMVER = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
KEBAB = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
# The lists that Tekton's catalog and Artifact Hub accept.
TEKTON_CATEGORIES = {
    "Automation", "Build Tools", "CLI", "Cloud", "Code Quality", "Continuous Integration", "Deployment", "Git",
    "Developer Tools", "Image Build", "Integration & Delivery", "Kubernetes", "Messaging", "Monitoring", "Networking",
    "Openshift", "Publishing", "Security", "Storage", "Testing",
}  # fmt: skip
HUB_CATEGORIES = {
    "ai-machine-learning", "database", "integration-delivery", "monitoring-logging", "networking", "security",
    "storage", "streaming-messaging", "skip-prediction",
}  # fmt: skip
PLATFORM = re.compile(r"linux/(amd64|arm64|ppc64le|s390x)")


def label(doc: Doc) -> str:
    """The version that a Task or Pipeline says it has."""
    return str((doc.data["metadata"].get("labels") or {}).get(VERSION_LABEL, ""))


@rule("name")
def names(catalog: Catalog) -> Iterable[Place]:
    """File, folder and metadata.name are the same, apiVersion is tekton.dev/v1, and there are no version folders."""
    for room, kind, docs in (("tasks", "Task", catalog.tasks), ("pipelines", "Pipeline", catalog.pipelines)):
        for folder in sorted(path for path in (catalog.root / room).iterdir() if path.is_dir()):
            if folder.name not in docs:
                yield folder, (), f"has no {folder.name}.yaml; name the file like its folder"
            for inner in folder.iterdir():
                if inner.is_dir() and inner.name != "runs":
                    yield (
                        inner,
                        (),
                        "is a folder inside a Task's or Pipeline's; versions live in the label and in CHANGELOG.md",
                    )
        for name, doc in docs.items():
            if doc.name != name:
                yield doc, ("metadata", "name"), f"metadata.name is {doc.name!r}; write {name}"
            if (doc.data.get("apiVersion"), doc.data.get("kind")) != ("tekton.dev/v1", kind):
                yield doc, ("apiVersion",), f"is not tekton.dev/v1 {kind}; write that apiVersion and kind"


@rule("labels")
def labelled(catalog: Catalog) -> Iterable[Place]:
    """Labels give the version (semantic) and app.kubernetes.io/part-of: isotherm."""
    for doc in catalog.published:
        if not SEMVER.fullmatch(label(doc)):
            yield doc, ("metadata", "labels"), f"label {VERSION_LABEL} is {label(doc)!r}; write a version such as 0.1.0"
        if (doc.data["metadata"].get("labels") or {}).get("app.kubernetes.io/part-of") != "isotherm":
            yield doc, ("metadata", "labels"), "label app.kubernetes.io/part-of is not isotherm; add it"


def _annotation_faults(found: dict[str, str]) -> Iterator[tuple[str, str]]:
    checks: dict[str, Callable[[str], bool]] = {
        "tekton.dev/displayName": lambda text: 3 <= len(text) <= 80,
        "tekton.dev/pipelines.minVersion": lambda text: bool(SEMVER.fullmatch(text)),
        "tekton.dev/categories": lambda text: {part.strip() for part in text.split(",")} <= TEKTON_CATEGORIES,
        "tekton.dev/tags": lambda text: all(re.fullmatch(r"[a-z0-9-]+", part.strip()) for part in text.split(",")),
        "tekton.dev/platforms": lambda text: all(PLATFORM.fullmatch(part.strip()) for part in text.split(",")),
        "artifacthub.io/category": lambda text: text in HUB_CATEGORIES,
        "artifacthub.io/license": lambda text: text == "Apache-2.0",
    }
    for name, good in checks.items():
        text = found.get(name)
        if text is None:
            yield name, f"annotation {name} is missing; add it"
        elif not good(str(text)):
            yield name, f"annotation {name} is {text!r}, which is not an accepted value; see the rules in lint/files.py"


@rule("annotations")
def annotated(catalog: Catalog) -> Iterable[Place]:
    """Annotations for the console, Tekton's catalog and Artifact Hub are there and have accepted values."""
    least = {
        str((doc.data["metadata"].get("annotations") or {}).get("tekton.dev/pipelines.minVersion"))
        for doc in catalog.published
    }
    for doc in catalog.published:
        for name, message in _annotation_faults(doc.data["metadata"].get("annotations") or {}):
            yield doc, ("metadata", "annotations", name), message
        if len(least) > 1:
            yield (
                doc,
                ("metadata", "annotations"),
                f"minVersion differs inside the catalog ({', '.join(sorted(least))}); give all the one that was tested",
            )


@rule("kebab-case")
def kebab_case(catalog: Catalog) -> Iterable[Place]:
    """Params, results, workspaces, steps and PipelineTasks are named in kebab-case."""
    for doc in catalog.published:
        for section in ("params", "results", "workspaces", "steps", "tasks", "finally"):
            for keys, item in doc.items(section):
                if not KEBAB.fullmatch(str(item["name"])):
                    yield (
                        doc,
                        keys,
                        f"{section} name {item['name']!r} is not kebab-case; use lower-case words joined by -",
                    )


@rule("description")
def descriptions(catalog: Catalog) -> Iterable[Place]:
    """Every Task, Pipeline, param, result and workspace has a sentence; that of an optional param tells its default."""
    for doc in catalog.published:
        if len(str(doc.spec.get("description", "")).split("\n\n")[0].split()) < 5:
            yield doc, ("spec", "description"), "the description does not start with a sentence; say what it does"
        for section in ("params", "results", "workspaces"):
            for keys, item in doc.items(section):
                text = str(item.get("description", "")).strip()
                if len(text.split()) < 3 or not text.endswith("."):
                    yield (
                        doc,
                        keys,
                        (
                            f"{item['name']} is described as {text!r}; write a sentence "
                            "(meaning, unit, default) with a full stop"
                        ),
                    )
                elif "default" in item and "default" not in text.lower():
                    yield doc, keys, f"the description of {item['name']} does not tell its default; add it"


@rule("changelog")
def changelogs(catalog: Catalog) -> Iterable[Place]:
    """CHANGELOG.md's newest entry is the version in the label."""
    for doc in catalog.published:
        path = doc.path.parent / "CHANGELOG.md"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        newest = re.search(r"^## \[?v?([0-9][^\s\]]*)", text, re.MULTILINE)
        if newest is None:
            yield doc, (), "CHANGELOG.md beside it is missing or has no entry `## VERSION`; write one"
        elif newest[1] != label(doc):
            yield (
                doc,
                ("metadata", "labels", VERSION_LABEL),
                f"is {label(doc)}, but CHANGELOG.md's newest entry is {newest[1]}; make them agree",
            )


def _git(root: Path, *arguments: str) -> str | None:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else None


@rule("version-bump")
def version_bumps(catalog: Catalog) -> Iterable[Place]:
    """A Task or Pipeline whose spec differs from the last release (git tag v*) has a higher version."""
    release = (_git(catalog.root, "describe", "--tags", "--abbrev=0", "--match", "v[0-9]*") or "").strip()
    if not release:
        return
    for doc in catalog.published:
        before = _git(catalog.root, "show", f"{release}:./{catalog.relative(doc.path)}")
        if before is None:
            continue
        old = yaml.safe_load(before)
        was = str(old["metadata"]["labels"].get(VERSION_LABEL))
        if old["spec"] != doc.data["spec"] and _order(label(doc)) <= _order(was):
            yield (
                doc,
                ("metadata", "labels", VERSION_LABEL),
                f"the spec changed since {release}, the version did not; raise {was} and say why in CHANGELOG.md",
            )


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")) if SEMVER.fullmatch(version) else (0,)


@rule("listed")
def listed(catalog: Catalog) -> Iterable[Place]:
    """kustomization.yaml of tasks and pipelines lists every file that belongs to the catalog, and nothing else."""
    for room, docs in (("tasks", catalog.tasks), ("pipelines", catalog.pipelines)):
        path = catalog.root / room / "kustomization.yaml"
        if not path.exists():
            yield path, (), "is missing; list the room's files in it"
            continue
        kustomization = read_document(path)
        folders = [catalog.root / room / name for name in docs]
        wanted = {f"{folder.name}/{file.name}" for folder in folders for file in folder.glob("*.yaml")}
        given = set(kustomization.data.get("resources") or ())
        for name in sorted(wanted - given):
            yield kustomization, ("resources",), f"does not list {name}; add it"
        for name in sorted(given - wanted):
            yield kustomization, ("resources",), f"lists {name}, which is not there; remove it"
        if not (catalog.root / room / "artifacthub-repo.yml").exists():
            yield path.parent / "artifacthub-repo.yml", (), "is missing; Artifact Hub wants one per kind"


@rule("yaml")
def readable(catalog: Catalog) -> Iterable[Place]:
    """Every YAML file of the catalog can be read."""
    for path in catalog.yaml_files():
        try:
            read_documents(path)
        except Broken as error:
            yield Doc(path, {}, {(): error.line}), (), str(error)


@rule("yamllint")
def yamllint(catalog: Catalog) -> Iterable[Place]:
    """YAML follows .yamllint."""
    from yamllint import linter  # type: ignore[import-untyped]
    from yamllint.config import YamlLintConfig  # type: ignore[import-untyped]

    config = YamlLintConfig(file=str(Path(catalog.root) / ".yamllint"))
    for path in catalog.yaml_files():
        for problem in linter.run(path.read_text(encoding="utf-8"), config, str(path)):
            yield Doc(path, {}, {(): problem.line}), (), f"{problem.desc} ({problem.rule})"
