"""Builds the images once for all tests of this folder, and unpacks each when a test first asks for it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path

import pytest
from oci_container import Image, open_to_all, unpack

from isotherm_local.images import families, layout, make
from isotherm_local.images.command import default_cache

ROOT = Path(__file__).resolve().parents[2]
SIZES = ROOT / "build" / "images" / "sizes.json"


@pytest.fixture(scope="session")
def plan() -> make.Plan:
    if os.geteuid() != 0 or shutil.which("runc") is None:
        pytest.fail("the images' tests start containers with runc: be root and install runc")
    return make.Plan(ROOT, families.choose(ROOT, [], with_lab=True, cuda=False), default_cache())


@pytest.fixture(scope="session")
def built(plan: make.Plan) -> dict[str, layout.Built]:
    """Build what changed, and write the sizes of all."""
    done = make.make(plan, lambda name, what: print(f"{name}: {what}", flush=True))
    SIZES.parent.mkdir(parents=True, exist_ok=True)
    SIZES.write_text(json.dumps([asdict(one) for one in done], indent=2) + "\n")
    return {one.name: one for one in done}


@pytest.fixture(scope="session")
def image(
    plan: make.Plan, built: dict[str, layout.Built], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Image]]:
    place = tmp_path_factory.mktemp("images")
    open_to_all(place)

    @cache
    def unpacked(name: str) -> Image:
        folder = next(plan.folder(family) for family in plan.images if family.name == name)
        root = place / name
        root.mkdir()
        unpack(folder, root)
        return Image(name, root, layout.config(folder), place / f"{name}.bundles")

    yield unpacked
    shutil.rmtree(place)
