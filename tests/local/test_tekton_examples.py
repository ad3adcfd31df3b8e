"""Tekton's own examples end here as the list says, or are refused by name before anything runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tekton_examples
import yaml
from tekton_examples import Example

from isotherm.tekton import BadInput
from isotherm_local.runner.normal import normal_form
from isotherm_local.runner.run import run_pipeline

EXAMPLES = tekton_examples.examples()
RUNS = [one for one in EXAMPLES if not one.refused]
REFUSED = [one for one in EXAMPLES if one.refused]


def write(example: Example, module: Path, folder: Path) -> Path:
    file = folder / "example.yaml"
    file.write_text(yaml.safe_dump_all(example.documents(module), sort_keys=False))
    return file


@pytest.mark.parametrize("example", RUNS, ids=lambda one: one.name)
def test_an_example_ends_as_listed(example: Example, tekton_module: Path, tmp_path: Path) -> None:
    absent = [program for program in example.needs if shutil.which(program) is None]
    if absent:
        pytest.skip(f"this machine has no {', '.join(absent)}")
    file = write(example, tekton_module, tmp_path)
    form = normal_form(run_pipeline(file, state=tmp_path / "state", name="it", foreign_images=True))
    assert (form["status"], form["reason"]) == (example.status, example.reason)
    assert example.varying or form["results"] == example.results
    assert {one["name"]: one["reason"] for one in form.get("skipped", ())} == example.skipped


@pytest.mark.parametrize("example", REFUSED, ids=lambda one: one.name)
def test_an_example_is_refused_before_anything_runs(example: Example, tekton_module: Path, tmp_path: Path) -> None:
    file = write(example, tekton_module, tmp_path)
    with pytest.raises(BadInput) as error:
        run_pipeline(file, state=tmp_path / "state", name="it", foreign_images=True)
    assert example.refused in error.value.line()
    assert "\n" not in error.value.line()
    assert not (tmp_path / "state").exists()


def test_every_example_of_tekton_is_listed_once(tekton_module: Path) -> None:
    folder = tekton_examples.folder(tekton_module)
    there = []
    for file in folder.rglob("*.yaml"):
        documents = [one for one in yaml.safe_load_all(file.read_text()) if one]
        runs = [one["metadata"] for one in documents if one["kind"] in tekton_examples.RUNS]
        several = len(runs) > 1
        there += [(str(file.relative_to(folder)), _name(one) if several else "") for one in runs]
    assert sorted((one.path, one.run) for one in EXAMPLES) == sorted(there)


def _name(metadata: dict[str, str]) -> str:
    return metadata.get("name") or metadata["generateName"]
