"""Make the images whose inputs changed, and keep each as an OCI layout with its figures."""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from isotherm import tekton
from isotherm_local.images import base, engines, families, layout, pip
from isotherm_local.images.containerfile import declared

# The Containerfiles' own default: the base where a registry can be reached.
UBI = "ubi"
DEBIAN = "debian"


@dataclass(frozen=True)
class Plan:
    """What is asked for: the checkout, the images, the base, the tool, and where everything is kept."""

    root: Path
    images: Sequence[families.Family]
    cache: Path
    base: str = ""
    mirror: str = ""
    engine: str = ""
    again: bool = False

    @property
    def base_name(self) -> str:
        """Name the base: as given, else Debian where it can be made, else the Containerfiles' default."""
        return self.base or (UBI if base.possible() else DEBIAN)

    @property
    def base_key(self) -> str:
        """Name what the base is made of: a stand-in's recipe, or the reference of an image."""
        return base.key(self.mirror) if self.base_name == DEBIAN else self.base_name

    def folder(self, family: families.Family) -> Path:
        """Name the place of an image's layout."""
        return self.cache / "oci" / f"{family.name}{family.suffix}"


@contextmanager
def lock(cache: Path) -> Iterator[None]:
    """Let one build at a time use the cache."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise tekton.Unavailable(
                f"another build uses {cache}", remedy="wait for it, or give a folder with --cache"
            ) from error
        # Of a build that was killed: its copy of pip's settings may name an index with a password.
        for stale in cache.glob(f"{pip.PREFIX}*"):
            shutil.rmtree(stale)
        try:
            yield
        finally:
            engines.release(cache)


def make(plan: Plan, say: Callable[[str, str], None]) -> list[layout.Built]:
    """Make what is missing or changed; `say` is told an image's name and what happens to it."""
    built: list[layout.Built] = []
    with lock(plan.cache):
        (plan.cache / "logs").mkdir(exist_ok=True)
        maker = _Maker(plan, say)
        for family in plan.images:
            sha = families.commit(plan.root, family)
            key = families.key(family, plan.base_key, sha)
            found = None if plan.again else layout.find(plan.folder(family), key)
            if found:
                say(family.name, "unchanged")
            built.append(found or maker.one(family, key, sha))
    return built


class _Maker:
    """Builds with one tool on one base; both are looked for only when an image has to be built."""

    def __init__(self, plan: Plan, say: Callable[[str, str], None]) -> None:
        self.plan = plan
        self.say = say
        self._base: str | None = None
        self._engine: engines.Engine | None = None

    def engine(self) -> engines.Engine:
        if self._engine is None:
            self._engine = engines.choose(self.plan.cache, self.plan.engine)
            engines.discard(self._engine)
        return self._engine

    def base(self) -> dict[str, str]:
        """Return the build argument that names the base."""
        if self.plan.base_name == UBI:
            return {}
        if self.plan.base_name != DEBIAN:
            return {"BASE_IMAGE": self.plan.base_name}
        if self._base is None:
            self._base = base.image(self.engine(), self.plan.cache, self.plan.mirror, self._progress("base"))
        return {"BASE_IMAGE": self._base}

    def _progress(self, name: str) -> engines.Progress:
        return lambda line: self.say(name, line)

    def one(self, family: families.Family, key: str, sha: str) -> layout.Built:
        """Build one image, write its layout beside the old one, and take its place."""
        engine, taken = self.engine(), declared(family.containerfile)
        given = {**self.base(), **family.arguments, "GIT_SHA": sha}
        arguments = {name: value for name, value in given.items() if name in taken}
        began = time.monotonic()
        reference = family.reference(families.version(self.plan.root))
        folder = self.plan.folder(family)
        log = self.plan.cache / "logs" / f"{folder.name}.log"
        with pip.volumes(self.plan.cache, self.plan.root.parent / "shared" / "wheels") as volumes:
            wanted = engines.Build(
                family.containerfile, family.context, reference, arguments, {layout.LABEL: key}, volumes
            )
            engines.build(engine, wanted, log, self._progress(family.name))
        self.say(family.name, "packing")
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.parent.mkdir(parents=True, exist_ok=True)
        engines.export(engine, reference, reference, partial, log)
        built = layout.measure(partial, folder.name, reference, time.monotonic() - began, sha)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
        engines.prune(engine, self.plan.cache / "logs")
        self.say(family.name, f"built in {built.seconds:.0f} s")
        return built


def clean(cache: Path) -> None:
    """Remove everything that builds have left in the cache, images included."""
    with lock(cache):
        for inner in cache.iterdir():
            if inner.name != "lock":
                shutil.rmtree(inner)
