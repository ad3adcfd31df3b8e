"""Rules about what kustomize makes of the root and of each overlay."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from isotherm_local.lint import gotools
from isotherm_local.lint.model import Catalog, Doc, Place, read_document, rule
from isotherm_local.lint.schema import complaints

OVERLAYS = ("dev", "staging", "prod")
NAMESPACES = {"dev": "isotherm-dev", "staging": "isotherm-staging", "prod": "ml-prod"}
PINNED = ("prod",)
# Objects without a namespace that an overlay may bring.
CLUSTER_SCOPED = {"ClusterRole", "ClusterRoleBinding"}


@cache
def _rendered(command: tuple[str, ...], folder: Path, stamp: float) -> tuple[str, str]:  # noqa: ARG001 (part of the cache's key)
    return gotools.render(command, folder)


def render(catalog: Catalog, folder: str) -> tuple[str, str]:
    """Render a kustomization; return its YAML and, where kustomize refuses, what it says. Raises `gotools.Missing`."""
    stamp = max(path.stat().st_mtime for path in catalog.yaml_files())
    return _rendered(tuple(gotools.kustomize(catalog.root / "scripts" / "schemas")), catalog.root / folder, stamp)


def objects(catalog: Catalog, folder: str) -> list[dict[str, Any]]:
    """Render a kustomization into objects; none where it does not render."""
    text, _ = render(catalog, folder)
    return [item for item in yaml.load_all(text, Loader=yaml.CSafeLoader) if item]


def _overlays(catalog: Catalog) -> Iterator[tuple[str, Doc, list[dict[str, Any]]]]:
    for name in OVERLAYS:
        path = catalog.root / "overlays" / name / "kustomization.yaml"
        yield name, read_document(path), objects(catalog, f"overlays/{name}")


def _steps(items: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for item in items:
        if item["kind"] == "Task":
            for step in item["spec"]["steps"]:
                yield item["metadata"]["name"], step


def _pod_images(item: dict[str, Any]) -> Iterator[str]:
    """The images of a Deployment's or CronJob's pods; none of another kind."""
    spec = item.get("spec") or {}
    template = (spec.get("jobTemplate", {}).get("spec") or spec).get("template")
    pod = template.get("spec", {}) if item["kind"] in ("Deployment", "CronJob") and template else {}
    for container in [*pod.get("initContainers", ()), *pod.get("containers", ())]:
        yield str(container["image"])


@rule("render")
def renders(catalog: Catalog) -> Iterable[Place]:
    """The root and every overlay render, and who reads the objects accepts them."""
    for folder in (
        ".",
        *(f"overlays/{name}" for name in (*OVERLAYS, "build", "console")),
        "overlays/components/openshift",
    ):
        place = read_document(catalog.root / folder / "kustomization.yaml")
        text, refusal = render(catalog, folder)
        if refusal:
            yield place, (), f"does not render: {refusal}"
            continue
        with tempfile.TemporaryDirectory() as work:
            path = Path(work) / "rendered.yaml"
            path.write_text(text, encoding="utf-8")
            for _, message in complaints(catalog, [path]):
                yield place, (), f"renders what its readers refuse: {message}"


@rule("overlay-lists")
def overlay_lists(catalog: Catalog) -> Iterable[Place]:
    """An overlay lists the rooms, never the root (a cycle), and renames nothing (taskRefs would not follow)."""
    rooms = [
        f"../../{room}"
        for room in ("tasks", "pipelines", "rollout", "triggers")
        if (catalog.root / room / "kustomization.yaml").exists()
    ]
    paths = [catalog.root / "overlays" / name / "kustomization.yaml" for name in OVERLAYS]
    for path in [*paths, *sorted(catalog.root.glob("overlays/components/*/kustomization.yaml"))]:
        doc = read_document(path)
        for key in ("namePrefix", "nameSuffix"):
            if key in doc.data:
                yield doc, (key,), "renames Tasks without their taskRefs; drop it and use a namespace"
        if doc.data.get("kind") == "Component":
            continue
        given = doc.data.get("resources") or []
        for room in rooms:
            if room not in given:
                yield doc, ("resources",), f"does not list {room}; add it"
        if "../.." in given:
            yield doc, ("resources",), "lists ../.., which holds this overlay; list the rooms"


@rule("overlay-settings")
def overlay_settings(catalog: Catalog) -> Iterable[Place]:
    """Every key of an overlay's settings.yaml is copied to where something reads it, and every overlay has them all."""
    component = catalog.root / "overlays" / "components" / "settings" / "kustomization.yaml"
    read = {r["source"]["fieldPath"].removeprefix("data.") for r in read_document(component).data["replacements"]}
    for name in OVERLAYS:
        doc = read_document(catalog.root / "overlays" / name / "settings.yaml")
        given = set(doc.data["data"])
        for key in sorted(given - read):
            yield doc, ("data", key), "is read by nothing; name it in components/settings or drop it"
        for key in sorted(read - given):
            yield doc, ("data",), f"does not give {key}, which components/settings copies; add it"


@rule("overlay-namespace")
def overlay_namespaces(catalog: Catalog) -> Iterable[Place]:
    """Each overlay puts everything into its namespace, or names it after that where it belongs to none."""
    for name, doc, items in _overlays(catalog):
        wanted = NAMESPACES[name]
        for item in items:
            kind, called = item["kind"], item["metadata"]["name"]
            if kind in CLUSTER_SCOPED:
                if not called.endswith(f"-{wanted}"):
                    why = f"{kind} {called} would be one for all overlays; end its name with -{wanted}"
                    yield doc, ("resources",), why
                continue
            inside = called if kind == "Namespace" else item["metadata"].get("namespace")
            if inside != wanted:
                yield doc, ("namespace",), f"{kind} {called} lands in {inside}; set namespace: {wanted}"


@rule("overlay-digest")
def overlay_digests(catalog: Catalog) -> Iterable[Place]:
    """In production every image is pinned by digest: each step's, each pod template's and the predictor's."""
    for name, doc, items in _overlays(catalog):
        if name not in PINNED:
            continue
        found = [(f"step of {task}", step["image"]) for task, step in _steps(items)]
        for item in items:
            found += [(f"{item['kind']} {item['metadata']['name']}", image) for image in _pod_images(item)]
            if item["kind"] == "Pipeline":
                found += [
                    (f"{p['name']} of {item['metadata']['name']}", p.get("default"))
                    for p in item["spec"].get("params", ())
                    if p["name"] == "predictor-image"
                ]
        for what, image in found:
            if "@sha256:" not in str(image):
                yield doc, ("images",), f"{what} is {image}; pin its digest under images:"


@rule("overlay-image-ref")
def overlay_image_refs(catalog: Catalog) -> Iterable[Place]:
    """Every overlay tells each step its own image as IMAGE_REF."""
    for _, doc, items in _overlays(catalog):
        for task, step in _steps(items):
            reference = next((item.get("value") for item in step.get("env", ()) if item["name"] == "IMAGE_REF"), None)
            if reference != step["image"]:
                yield (
                    doc,
                    ("components",),
                    (
                        f"IMAGE_REF of {task} is {reference}, its image {step['image']}; "
                        "list component image-ref, and the Task in it"
                    ),
                )
