"""What the pods of a run are allowed to be: no root, no privilege, no restart, each under its own account."""

from __future__ import annotations

import pytest

from e2e.cluster import Finished, Object
from e2e.conftest import MODEL, Catalog

pytestmark = pytest.mark.core


def containers(pod: Object) -> list[Object]:
    """All containers of a pod."""
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def test_the_namespace_enforces_profile_restricted(catalog: Catalog, first: Finished) -> None:
    labels = catalog.get("namespace", catalog.namespace)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_no_pod_restarts_runs_as_root_or_needs_a_privilege(catalog: Catalog, first: Finished) -> None:
    pods = catalog.get("pods")["items"]
    assert len(pods) >= 8
    for pod in pods:
        name = pod["metadata"]["name"]
        statuses = pod["status"].get("containerStatuses", []) + pod["status"].get("initContainerStatuses", [])
        assert sum(status["restartCount"] for status in statuses) == 0, name
        for container in containers(pod):
            context = container.get("securityContext", {})
            assert context.get("allowPrivilegeEscalation") is False, name
            assert context["capabilities"]["drop"] == ["ALL"], name
            assert not context.get("privileged")
            nonroot = context.get("runAsNonRoot", pod["spec"].get("securityContext", {}).get("runAsNonRoot"))
            assert nonroot is True, name


def test_a_serving_pod_really_runs_as_an_ordinary_user(catalog: Catalog, first: Finished) -> None:
    [pod] = catalog.get("pods", "-l", f"serving.kserve.io/inferenceservice={MODEL}-blue")["items"]
    shown = catalog.kubectl("exec", pod["metadata"]["name"], "-c", "kserve-container", "--", "cat", "/proc/1/status")
    fields = dict(line.split(":", 1) for line in shown.splitlines())
    assert fields["Uid"].split()[0] != "0"
    assert fields["Gid"].split()[0] == "0"
    assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0
    assert fields["NoNewPrivs"].strip() == "1"
    assert fields["Seccomp"].strip() == "2"


def test_each_task_runs_under_its_own_account(first: Finished) -> None:
    for run in first.task_runs:
        assert run["spec"]["serviceAccountName"] == run["spec"]["taskRef"]["name"]
