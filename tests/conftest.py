"""Fixtures that every test folder may ask for by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import tekton_examples
from mlflow_server import mlflow_url

from isotherm_local.events import offline
from isotherm_local.lint import gotools

pytest.register_assert_rewrite("api_rules")  # tests that two folders import

__all__ = ["mlflow_url", "replayer", "tekton_module"]


@pytest.fixture(scope="session")
def tekton_module() -> Path:
    """Find Tekton's source; without Go the test is skipped, unless ISOTHERM_REQUIRE_GO demands it."""
    try:
        return tekton_examples.module()
    except gotools.Missing as error:
        if gotools.required():
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def replayer() -> Path:
    """Build the program that replays events; without Go the test is skipped, unless ISOTHERM_REQUIRE_GO demands it."""
    try:
        return offline.program()
    except gotools.Missing as error:
        if gotools.required():
            raise
        pytest.skip(str(error))
