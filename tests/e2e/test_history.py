"""Everything that was written to development's Routes while the suite ran: nothing that must never be is among it."""

from __future__ import annotations

import pytest

from e2e.conftest import MODEL, Catalog
from e2e.written import Written

pytestmark = pytest.mark.core


def test_no_write_to_a_route_was_one_that_must_never_be(catalog: Catalog, written: Written) -> None:
    """One watch has seen every version of every Route."""
    runs = catalog.get("pipelineruns")["items"]
    rollbacks = {run["metadata"]["uid"] for run in runs if run["spec"]["pipelineRef"]["name"] == "rollback"}
    assert written.sound({catalog.namespace}, rollbacks)[catalog.namespace, MODEL] > 0
