"""The strict check: Tekton's own types, CRD schemas and admission rules decide, an unknown field is an error."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path

from isotherm_local.lint import gotools
from isotherm_local.lint.model import Catalog, Place, rule


def complaints(catalog: Catalog, paths: list[Path]) -> list[tuple[Path, str]]:
    """Ask Tekton about files; return what it says, file by file. Raises `gotools.Missing` without the program."""
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
    """Tekton itself accepts every Task, Pipeline and PipelineRun; an unknown field is an error."""
    paths = [doc.path for doc in [*catalog.published, *catalog.runs]]
    for path, message in complaints(catalog, paths):
        yield path, (), f"{message}; compare it with Tekton's reference"
