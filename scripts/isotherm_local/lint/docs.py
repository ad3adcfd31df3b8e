"""Rules about the documents beside the YAML."""

from __future__ import annotations

from collections.abc import Iterable

from isotherm_local import readmes
from isotherm_local.lint.model import Catalog, Place, rule


@rule("readme")
def readme_in_sync(catalog: Catalog) -> Iterable[Place]:
    """The generated part of each README.md is what the YAML says."""
    for _, path in readmes.stale(catalog):
        yield path, (), "differs from its YAML; run `isotherm lint --fix`"
