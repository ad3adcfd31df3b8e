"""Rules about the images that steps run in: their references, and the Containerfiles that make them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from isotherm_local.images.containerfile import copied, instructions
from isotherm_local.lint.model import Catalog, Place, rule
from isotherm_local.lint.source import closure, module_path
from isotherm_local.lint.steps import steps


@rule("image")
def images(catalog: Catalog) -> Iterable[Place]:
    """A step's image is isotherm/FAMILY with the package's version or a digest, and its family has a lock."""
    version = re.search(
        r'^version = "([^"]+)"', (catalog.root / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE
    )
    for doc, keys, step in steps(catalog):
        image, at = str(step.get("image", "")), (*keys, "image")
        matched = re.fullmatch(r"isotherm/([a-z-]+)(?::([\w.-]+)|@sha256:[0-9a-f]{64})", image)
        if matched is None:
            yield doc, at, f"image is {image!r}; write isotherm/FAMILY:VERSION (overlays pin the digest)"
            continue
        if not list((catalog.root / "images" / matched[1]).glob("requirements*.txt")):
            yield doc, at, f"images/{matched[1]} has no requirements; name an image family"
        if matched[2] and version and matched[2] != version[1]:
            yield doc, at, f"tag {matched[2]} is not the package's version {version[1]}; write that"


def _environment(found: list[tuple[str, str]]) -> set[str]:
    return {name for word, rest in found if word == "ENV" for name in re.findall(r"(?:^|\s)(\w+)=", rest)}


@rule("containerfile")
def containerfiles(catalog: Catalog) -> Iterable[Place]:
    """A Containerfile ends as USER 1001 with a HOME and builds on any BASE_IMAGE; pip takes nothing but its lock."""
    for path in sorted(
        [*catalog.root.glob("images/*/Containerfile"), *catalog.root.glob("tests/lab/images/*/Containerfile")]
    ):
        found = list(instructions(path))
        users = [rest for word, rest in found if word == "USER"]
        if not users or users[-1] != "1001":
            ends = users[-1] if users else "root"
            yield path, (), f"ends as USER {ends}; end it as USER 1001 (a number, so that runAsNonRoot can tell)"
        if any(word in ("FROM", "ARG") and re.search(r":latest\b", rest) for word, rest in found):
            yield path, (), "takes an image by :latest; name a version"
        if any(word == "FROM" and not re.match(r"\$\{BASE_IMAGE\}", rest) for word, rest in found):
            yield path, (), "starts from another image than ${BASE_IMAGE}; the base is a build argument"
        if "HOME" not in _environment(found):
            yield path, (), "sets no HOME; OpenShift's user has none: make one that group 0 may write"
        for word, rest in found:
            if word == "RUN" and re.search(r"\bpip\b.*\binstall\b", rest) and "--require-hashes" not in rest:
                yield path, (), "installs packages without --require-hashes; install the lock"
            if "://" in rest:
                yield path, (), "names an address; give it when building (a build argument, pip's settings)"


@rule("image-copies")
def image_copies(catalog: Catalog) -> Iterable[Place]:
    """A Containerfile copies only what is there, and starts `python` from its own environment."""
    for folder in ("images", "tests/lab/images"):
        for path in sorted((catalog.root / folder).glob("*/Containerfile")):
            # The catalog's images share a context, because they share a package; each of the lab's is by itself.
            context = catalog.root / "images" if folder == "images" else path.parent
            for source in copied(path):
                if not (context / source).exists():
                    yield path, (), f"copies {source}, which is not there; correct it"
            found = list(instructions(path))
            python = any("/opt/app" in rest for _, rest in found)
            if folder == "images" and python and "PATH" not in _environment(found):
                yield path, (), "sets no PATH; put /opt/app/bin first, Tasks start `python`"


@rule("image-complete")
def complete_images(catalog: Catalog) -> Iterable[Place]:
    """An image holds every module of the package that its steps' programs import."""
    images = catalog.root / "images"
    for doc, keys, step in steps(catalog):
        command, family = step.get("command") or [""], re.sub(r"[:@].*", "", str(step.get("image")).rsplit("/", 1)[-1])
        path = images / family / "Containerfile"
        if not path.exists():
            yield doc, (*keys, "image"), f"images/{family} has no Containerfile; write it"
            continue
        held = set(copied(path))
        for module in sorted(closure(images, str(command[-1]))):
            file = module_path(images, module)
            parts = file.relative_to(images) if file else Path(module)
            if not {part.as_posix() for part in (parts, *parts.parents)} & held:
                yield path, (), f"does not copy {parts}, which {command[-1]} imports; add it to COPY"
