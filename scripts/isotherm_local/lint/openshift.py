"""Rules about what only OpenShift has: builds of the images, and samples in the web console."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from isotherm_local.images.containerfile import copied, declared
from isotherm_local.lint.model import Catalog, Doc, Place, read_document, read_documents, rule

COMPONENT = "overlays/components/openshift"


def _flaws(catalog: Catalog, family: str, build: Doc, streams: set[str]) -> Iterator[tuple[tuple[str, ...], str]]:
    """What is wrong with a family's BuildConfig, as keys and message."""
    given, strategy = build.spec["source"], build.spec["strategy"]["dockerStrategy"]
    context = catalog.root / given.get("contextDir", ".")
    path = context / strategy["dockerfilePath"]
    if path != catalog.root / "images" / family / "Containerfile":
        yield ("spec", "strategy"), f"builds {catalog.relative(path)}; name images/{family}/Containerfile"
        return
    for source in copied(path, {one["name"]: one["value"] for one in strategy.get("buildArgs") or ()}):
        if not (context / source).exists():
            yield ("spec", "source"), f"its context has no {source}, which the Containerfile copies; set contextDir"
    for argument in strategy.get("buildArgs") or ():
        if argument["name"] not in declared(path):
            yield ("spec", "strategy"), f"gives build argument {argument['name']}, which nothing declares; drop it"
    stream, _, tag = build.spec["output"]["to"]["name"].partition(":")
    version = re.search(r'^version = "([^"]+)"', (catalog.root / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    if stream not in streams or stream != f"isotherm-{family}" or (version and tag != version[1]):
        yield ("spec", "output"), f"puts the image into {stream}:{tag}; name the family's stream and the version"


@rule("builds")
def builds(catalog: Catalog) -> Iterable[Place]:
    """Every image family has a BuildConfig that finds what its Containerfile copies and fills its ImageStream."""
    path = catalog.root / COMPONENT / "builds.yaml"
    given = {doc.name.removeprefix("isotherm-"): doc for doc in read_documents(path)}
    streams = {doc.name for doc in read_documents(path.with_name("imagestreams.yaml"))}
    families = {file.parent.name for file in catalog.root.glob("images/*/Containerfile")}
    for family in sorted(families ^ set(given)):
        yield path, (), f"{family} has an image or a BuildConfig, not both; add what is missing"
    for family in sorted(families & set(given)):
        for keys, message in _flaws(catalog, family, given[family], streams):
            yield given[family], keys, f"{family}: {message}"
    component = read_document(path.with_name("kustomization.yaml"))
    renamed = {image["name"]: image["newName"] for image in component.data["images"]}
    if renamed != {f"isotherm/{family}": f"isotherm-{family}" for family in families}:
        yield (
            path.with_name("kustomization.yaml"),
            (),
            "images: does not lead each family to its ImageStream; list them",
        )


@rule("console-samples")
def console_samples(catalog: Catalog) -> Iterable[Place]:
    """A sample in the console is an example run of the catalog, word for word."""
    runs: dict[str, Path] = {path.stem: path for path in catalog.root.glob("pipelines/*/runs/*.yaml")}
    for path in sorted((catalog.root / "overlays" / "console").glob("*.yaml")):
        doc = read_document(path)
        if doc.data.get("kind") != "ConsoleYAMLSample":
            continue
        run = runs.get(path.stem)
        if run is None:
            yield doc, (), f"no example run is called {path.stem}; name the file like its run"
        elif doc.spec["yaml"] != run.read_text(encoding="utf-8"):
            yield doc, ("spec", "yaml"), f"differs from {catalog.relative(run)}; copy that"
