"""The strict check: types, schemas and admission rules of who reads the objects decide; an unknown field is an error.

Tekton judges Tasks, Pipelines and their runs; KServe's and OpenShift's schemas and types what kserve-deploy makes and
what the overlays bring; Kubernetes' pod security checks each pod that comes of them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import yaml

from isotherm_local.lint import gotools
from isotherm_local.lint.model import Catalog, Place, rule


def complaints(catalog: Catalog, paths: list[Path]) -> list[tuple[Path, str]]:
    """Ask the validation program about files; return what it says, file by file. Raises `gotools.Missing`."""
    program, schemas = gotools.validator(catalog.root / "scripts" / "schemas")
    done = subprocess.run([program, schemas, *paths], capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise gotools.Missing(
            f"the schema check stopped ({done.stderr.strip()[-300:]}); remove its folder under ~/.cache/isotherm"
        )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return [(Path(item["file"]), " ".join(item["message"].split())) for item in found]


@rule("schema")
def schemas(catalog: Catalog) -> Iterable[Place]:
    """Tekton itself accepts every Task, Pipeline and PipelineRun, and profile `restricted` each Task's pod."""
    paths = [doc.path for doc in [*catalog.published, *catalog.runs]]
    for path, message in complaints(catalog, paths):
        yield path, (), f"{message}; compare it with Tekton's reference"


SAMPLES = """
import sys, yaml
from isotherm.deploy import render, split_plan
digest, services = "d" * 64, {"blue": "blue", "green": "green"}
route = dict(name="plate", model_name="plate", live="blue", services=services, digest=digest, holder="uid",
             live_since="2026-01-01T00:00:00Z")
size = render.Size(2, "500m", "1Gi", "logs")
objects = [render.serving_runtime("isotherm/pinn-api:0.1.0")]
objects += [
    render.inference_service(model_name="plate", colour=colour, digest=digest, semver="1.2.0", data_version="dvc-1",
                             claimed_by="uid", storage_uri="pvc://claim/plate", size=size)
    for colour in services
]
blue, green = (
    render.predictor(model_name="plate", colour=colour, digest=digest, semver="1.2.0", data_version="dvc-1",
                     claimed_by="uid", storage_uri="pvc://claim/plate", size=size)
    for colour in services
)
split = render.split_service(name="plate", model_name="plate", notes=split_plan.NO_SHIFT, predictor=blue)
canary = render.canary(green, 10)
promoted = render.promoted(canary["predictor"])
objects += [split, {**split, "spec": {"predictor": promoted, "canary": [canary]}}]
objects += [render.service(name=colour, model_name="plate", colour=colour) for colour in services]
objects += [render.route(**route, host=host, termination=tls)
            for host in ("", "plate.example") for tls in render.TERMINATIONS]
yaml.safe_dump_all(objects, sys.stdout)
"""


@rule("rendered")
def rendered(catalog: Catalog) -> Iterable[Place]:
    """What kserve-deploy makes of its templates passes KServe's and OpenShift's schemas and pod security."""
    # Another process: the templates of the checkout that is looked at, not of the one that looks.
    images = catalog.root / "images"
    done = subprocess.run(
        [sys.executable, "-c", SAMPLES], env={"PYTHONPATH": str(images)}, capture_output=True, text=True, check=False
    )
    templates = images / "isotherm" / "deploy" / "templates"
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        yield templates, (), f"cannot be rendered ({last}); run the tests of isotherm.deploy"
        return
    kinds = [item["kind"] for item in yaml.load_all(done.stdout, Loader=yaml.CSafeLoader)]
    with tempfile.TemporaryDirectory() as work:
        paths = []
        for number, text in enumerate(done.stdout.split("\n---\n")):
            paths.append(Path(work) / f"{number}.yaml")
            paths[-1].write_text(text, encoding="utf-8")
        for path, message in complaints(catalog, paths):
            yield templates, (), f"{kinds[int(path.stem)]}: {message}; compare it with the reference of its kind"
