"""The deploy programs' client where no API answers; what it does with one that answers is in `api_rules.programs`."""

from __future__ import annotations

import pytest
from mlflow_server import free_port

from isotherm import kube, tekton


def test_a_cluster_that_is_not_there_is_unavailable() -> None:
    from kubernetes import client

    nowhere = client.Configuration(host=f"http://127.0.0.1:{free_port()}")
    nowhere.retries = False
    with pytest.raises(tekton.Unavailable, match="did not answer") as error:
        kube.Cluster(client.ApiClient(nowhere), "unit", deadline_seconds=0.5).get(kube.ROUTE, "plate")
    assert "KUBECONFIG" in error.value.remedy
