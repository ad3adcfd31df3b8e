"""The suite of `api_rules` on the embedded API; tests/e2e runs the same one on a real API server."""

from __future__ import annotations

import pytest
from api_rules import differences
from api_rules.clients import *  # noqa: F403 - the tests themselves
from api_rules.objects import *  # noqa: F403
from api_rules.programs import *  # noqa: F403
from api_rules.table import *  # noqa: F403
from api_rules.target import EMBEDDED, Api
from kubernetes import config
from local_target import cluster, own_namespace

from isotherm_local.cluster import Cluster
from isotherm_local.processes import ROOT

__all__ = ["cluster"]


@pytest.fixture
def api(cluster: Cluster, request: pytest.FixtureRequest) -> Api:
    """The embedded API, in a namespace of the test's own."""
    namespace = own_namespace(request)
    client = config.new_client_from_config(str(cluster.kubeconfig(namespace)))
    client.configuration.retries = False
    return Api(EMBEDDED, client, namespace)


def test_the_document_lists_exactly_the_known_differences() -> None:
    text = (ROOT / "docs/parity.md").read_text()
    shown = text[text.index(differences.FIRST) : text.index(differences.LAST) + len(differences.LAST)]
    assert shown == differences.document(), f"put this into docs/parity.md:\n{differences.document()}"
