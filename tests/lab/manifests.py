"""Read YAML of other projects as they ship it, and change what an installation without a registry must change."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from lab import golang, images
from lab.part import Object

# Some fields (`=` in a CRD's enum) are YAML 1.1 values that the safe loader does not construct.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_KO = re.compile(r"ko://github\.com/tektoncd/(pipeline|triggers)/cmd/([a-z]+)")
_MODULES = {"pipeline": "pipelines", "triggers": "triggers"}


def documents(*files: Path) -> Iterator[Object]:
    """Every object of the files, in order; each file is parsed by itself, as some end without a line feed."""
    for file in files:
        yield from (item for item in yaml.load_all(file.read_text(), Loader=_LOADER) if item)


def folder(path: Path, *, without: Iterable[str] = ()) -> list[Path]:
    """The YAML files of a folder in the order of their names, which is the order of installation."""
    return [file for file in sorted(path.glob("*.yaml")) if file.name not in without]


def map_strings(item: Any, change: Callable[[str], str]) -> Any:
    """A copy of an object with every string changed."""
    if isinstance(item, dict):
        return {key: map_strings(value, change) for key, value in item.items()}
    if isinstance(item, list):
        return [map_strings(value, change) for value in item]
    return change(item) if isinstance(item, str) else item


def tekton(item: Object, version: str) -> Object:
    """Tekton's placeholders for its own images and its version, filled in."""

    def change(text: str) -> str:
        if text == "devel":
            return version
        return _KO.sub(lambda m: images.name(_MODULES[m[1]], m[2]), text)

    changed: Object = map_strings(item, change)
    return changed


def version(module: str) -> str:
    """The version of a module, read off its folder in the module cache (`.../pipeline@v1.15.0`)."""
    return golang.source(module).name.partition("@")[2]


def small(item: Object) -> Object:
    """A Deployment that asks for little (two cores are few) and has quick probes; others unchanged.

    Pods without a request weigh together what two thousandths of a core would. A webhook, for which every write waits,
    weighs more, and has more than a second for its probe: else it is restarted while two runs train.
    """
    if item["kind"] == "Deployment":
        for container in item["spec"]["template"]["spec"]["containers"]:
            webhook = item["metadata"]["name"].endswith("webhook")
            container["resources"] = {"requests": {"cpu": "100m" if webhook else "20m"}}
            if "livenessProbe" in container:
                container["livenessProbe"] |= {"timeoutSeconds": 5}
            for probe in ("readinessProbe", "startupProbe"):
                if probe in container:
                    container[probe] |= {"periodSeconds": 1, "initialDelaySeconds": 0}
    return item
