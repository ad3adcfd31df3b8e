"""Fixtures that every test folder may ask for by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import tekton_examples
from mlflow_server import mlflow_url

from isotherm_local.lint import gotools

pytest.register_assert_rewrite("api_rules")  # tests that two folders import

__all__ = ["mlflow_url", "tekton_module"]


@pytest.fixture(scope="session")
def tekton_module() -> Path:
    """Find Tekton's source; without Go the test is skipped, unless ISOTHERM_REQUIRE_GO demands it."""
    try:
        return tekton_examples.module()
    except gotools.Missing as error:
        if gotools.required():
            raise
        pytest.skip(str(error))
