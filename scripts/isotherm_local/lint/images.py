"""Rules about the images that steps run in: their references, and the Containerfiles that make them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

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


def instructions(path: Path) -> Iterator[tuple[str, str]]:
    """Walk a Containerfile's instructions, continued lines joined: `("USER", "1001")`."""
    text = re.sub(r"\\\n", " ", path.read_text(encoding="utf-8"))
    for line in text.splitlines():
        word, _, rest = line.strip().partition(" ")
        if word and not word.startswith("#"):
            yield word.upper(), rest.strip()


@rule("containerfile")
def containerfiles(catalog: Catalog) -> Iterable[Place]:
    """A Containerfile ends as USER 1001, takes no :latest, installs only by its lock's hashes, and has a HOME."""
    for path in sorted(catalog.root.glob("images/*/Containerfile")):
        found = list(instructions(path))
        users = [rest for word, rest in found if word == "USER"]
        if not users or users[-1] != "1001":
            yield (
                path,
                (),
                (
                    f"ends as USER {users[-1] if users else 'root'}; end it as USER "
                    "1001 (a number, so that runAsNonRoot can tell)"
                ),
            )
        if any(word in ("FROM", "ARG") and re.search(r":latest\b", rest) for word, rest in found):
            yield path, (), "takes an image by :latest; name a version"
        if not any(word == "ENV" and re.search(r"\bHOME=", rest) for word, rest in found):
            yield path, (), "sets no HOME; OpenShift's user has none: make one that group 0 may write"
        for word, rest in found:
            if word == "RUN" and "pip install" in rest and "--require-hashes" not in rest:
                yield path, (), "installs packages without --require-hashes; install the lock"


def _copied(path: Path) -> set[str]:
    """Collect what a Containerfile copies, relative to images/ (its build context is that folder or the root)."""
    copied = [rest.split()[:-1] for word, rest in instructions(path) if word == "COPY"]
    return {source.removeprefix("images/").rstrip("/") for sources in copied for source in sources}


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
        copied = _copied(path)
        for module in sorted(closure(images, str(command[-1]))):
            file = module_path(images, module)
            parts = file.relative_to(images) if file else Path(module)
            if not {part.as_posix() for part in (parts, *parts.parents)} & copied:
                yield path, (), f"does not copy {parts}, which {command[-1]} imports; add it to COPY"
