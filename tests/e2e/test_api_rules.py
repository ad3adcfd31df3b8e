"""The suite of `api_rules` on a real API server; tests/local runs the same one on the embedded API."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from api_rules.clients import *  # noqa: F403 - the tests themselves
from api_rules.objects import *  # noqa: F403
from api_rules.programs import *  # noqa: F403
from api_rules.table import *  # noqa: F403
from api_rules.target import CLUSTER, Api

from e2e import reach

pytestmark = pytest.mark.core
NAMESPACE = "api-rules"
# No test needs a pod, and KServe must not start one.
QUOTA = (
    '{"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "no-pods"}, "spec": {"hard": {"pods": "0"}}}'
)


@pytest.fixture(scope="module")
def place() -> Iterator[object]:
    """A namespace without pods, and the administrator's client."""
    from kubernetes import config

    client = config.new_client_from_config(reach.kubeconfig())
    client.configuration.retries = False
    with reach.namespace(NAMESPACE):
        reach.kubectl("-n", NAMESPACE, "apply", "-f", "-", stdin=QUOTA)
        yield client


@pytest.fixture
def api(place: object) -> Iterator[Api]:
    """The real API; what a test created is deleted after it."""
    found = Api(CLUSTER, place, NAMESPACE)  # type: ignore[arg-type]
    yield found
    found.clean()
