"""What each Task's account may do on a real API server: its Role, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest
import yaml
from lab.part import CHECKOUT

from e2e import reach

pytestmark = pytest.mark.core
NAMESPACE = "api-rbac"
ACCOUNTS = sorted(path.parent.name for path in CHECKOUT.glob("tasks/*/rbac.yaml"))
KINDS = {
    "": ("configmaps", "events", "persistentvolumeclaims", "pods", "secrets", "serviceaccounts", "services"),
    "apps": ("deployments", "replicasets"),
    "coordination.k8s.io": ("leases",),
    "discovery.k8s.io": ("endpointslices",),
    "rbac.authorization.k8s.io": ("rolebindings", "roles"),
    "route.openshift.io": ("routes",),
    "serving.kserve.io": ("inferenceservices", "servingruntimes"),
    "tekton.dev": ("pipelineruns", "pipelines", "taskruns", "tasks"),
}
NEVER = [
    *(("secrets", verb, "") for verb in ("get", "list", "watch", "create", "patch", "update")),
    *(("pods", verb, "") for verb in ("create", "patch", "update", "get", "list")),
    ("pods/exec", "create", ""), ("pods/log", "get", ""), ("serviceaccounts/token", "create", ""),
    ("serviceaccounts", "impersonate", ""), ("routes/status", "patch", "route.openshift.io"),
    ("inferenceservices/status", "patch", "serving.kserve.io"), ("deployments/scale", "patch", "apps"),
    ("taskruns", "create", "tekton.dev"), ("pipelineruns", "create", "tekton.dev"),
    *((kind, verb, "rbac.authorization.k8s.io") for kind in ("roles", "rolebindings")
      for verb in ("create", "patch", "escalate", "bind")),
]  # fmt: skip
May = Callable[..., bool]


def rules(account: str, file: str) -> list[tuple[str, str, str, str]]:
    """Group, resource, verb and name of everything that the Roles bound to an account give."""
    items = [item for item in yaml.safe_load_all((CHECKOUT / file).read_text()) if item]
    bound = {
        item["roleRef"]["name"]
        for item in items
        if item["kind"] == "RoleBinding" and account in [subject["name"] for subject in item["subjects"]]
    }
    granted = [rule for i in items if i["kind"] == "Role" and i["metadata"]["name"] in bound for rule in i["rules"]]
    return [
        each
        for rule in granted
        for each in product(rule["apiGroups"], rule["resources"], rule["verbs"], rule.get("resourceNames", [""]))
    ]


@pytest.fixture(scope="module")
def review() -> Iterator[Callable[..., Any]]:
    """The API server's own judgement on what an account may do: what `kubectl auth can-i --as` asks."""
    from kubernetes import client, config

    api = client.AuthorizationV1Api(config.new_client_from_config(reach.kubeconfig()))
    with reach.namespace(NAMESPACE, reach.RESTRICTED) as name:
        reach.kubectl("-n", name, "apply", "-k", str(CHECKOUT / "tasks"))
        reach.kubectl("-n", name, "apply", "-f", str(CHECKOUT / "overlays/components/infrared/rbac.yaml"))

        def ask(account: str, resource: str, verb: str, group: str, object_name: str, namespace: str) -> bool:
            kind, _, part = resource.partition("/")
            attributes = {
                "namespace": namespace, "verb": verb, "group": group, "resource": kind, "subresource": part,
                "name": object_name,
            }  # fmt: skip
            groups = ["system:serviceaccounts", f"system:serviceaccounts:{name}", "system:authenticated"]
            spec = {"user": f"system:serviceaccount:{name}:{account}", "groups": groups}
            body = {"spec": {**spec, "resourceAttributes": attributes}}
            return bool(api.create_subject_access_review(body).status.allowed)

        yield ask


@pytest.fixture
def may(review: Callable[..., Any]) -> May:
    """Ask about one account in the catalog's namespace."""

    def ask(
        account: str, resource: str, verb: str, group: str = "", name: str = "", namespace: str = NAMESPACE
    ) -> bool:
        return bool(review(account, resource, verb, group, name, namespace))

    return ask


@pytest.mark.parametrize("account", ACCOUNTS)
def test_an_account_may_do_what_its_role_says_here_and_nowhere_else(may: May, account: str) -> None:
    granted = rules(account, f"tasks/{account}/rbac.yaml") + rules(account, "overlays/components/infrared/rbac.yaml")
    assert bool(granted) == (account in ("kserve-deploy", "route-shift"))
    for group, resource, verb, name in granted:
        assert may(account, resource, verb, group, name), (resource, verb, name)
        assert not may(account, resource, verb, group, name, namespace="default")
        if name:
            assert not may(account, resource, verb, group, "another"), (resource, verb)


@pytest.mark.parametrize("account", ACCOUNTS)
def test_an_account_deletes_nothing(may: May, account: str) -> None:
    for group, kinds in KINDS.items():
        for kind, verb in product(kinds, ("delete", "deletecollection")):
            assert not may(account, kind, verb, group), (kind, verb)
            assert not may(account, kind, verb, group, "inverse-heat-pinn")


@pytest.mark.parametrize("account", ACCOUNTS)
def test_an_account_reads_no_secret_starts_no_pod_and_gives_no_rights(may: May, account: str) -> None:
    allowed = [(kind, verb) for kind, verb, group in NEVER if may(account, kind, verb, group)]
    assert allowed == []


@pytest.mark.parametrize("account", ACCOUNTS)
def test_only_route_shift_changes_a_route_and_only_the_models_own(may: May, account: str) -> None:
    group, shifts = "route.openshift.io", account == "route-shift"
    for name in ("inverse-heat-pinn", "pouch-cell"):
        assert may(account, "routes", "patch", group, name) is shifts
        assert not may(account, "routes", "update", group, name)
    assert not may(account, "routes", "patch", group, "another")
    assert not may(account, "routes", "patch", group)


@pytest.mark.parametrize("account", ACCOUNTS)
def test_every_right_of_an_account_is_one_of_its_roles(may: May, account: str) -> None:
    granted = rules(account, f"tasks/{account}/rbac.yaml") + rules(account, "overlays/components/infrared/rbac.yaml")
    without_name = {(group, resource, verb) for group, resource, verb, name in granted if not name}
    for group, kinds in KINDS.items():
        for kind, verb in product(kinds, ("get", "list", "watch", "create", "update", "patch")):
            assert may(account, kind, verb, group) is ((group, kind, verb) in without_name), (kind, verb)
