"""What each Task's account may do on a real API server: its Role, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from lab.part import CHECKOUT

from e2e import reach

pytestmark = pytest.mark.core
NAMESPACE = "api-rbac"
ACCOUNTS = sorted(path.parent.name for path in CHECKOUT.glob("tasks/*/rbac.yaml"))
NEVER = [
    *(("secrets", verb, "") for verb in ("get", "list", "watch", "create", "patch", "update")),
    *(("pods", verb, "") for verb in ("create", "patch", "update", "get", "list")),
    ("pods/exec", "create", ""), ("pods/log", "get", ""), ("serviceaccounts/token", "create", ""),
    ("serviceaccounts", "impersonate", ""), ("routes/status", "patch", "route.openshift.io"),
    ("inferenceservices/status", "patch", "serving.kserve.io"), ("deployments/scale", "patch", "apps"),
    *((kind, verb, group) for kind, group in (
        ("secrets", ""), ("pods", ""), ("services", ""), ("configmaps", ""), ("persistentvolumeclaims", ""),
        ("deployments", "apps"), ("routes", "route.openshift.io"), ("inferenceservices", "serving.kserve.io"),
        ("servingruntimes", "serving.kserve.io"), ("pipelineruns", "tekton.dev"), ("tasks", "tekton.dev"),
    ) for verb in ("delete", "deletecollection")),
    ("taskruns", "create", "tekton.dev"), ("pipelineruns", "create", "tekton.dev"),
    *((kind, verb, "rbac.authorization.k8s.io") for kind in ("roles", "rolebindings")
      for verb in ("create", "patch", "escalate", "bind")),
]  # fmt: skip
INFRARED = CHECKOUT / "overlays/components/infrared/rbac.yaml"  # the rights for a second model
May = Callable[..., bool]


def files(account: str) -> list[Path]:
    """Where an account's rights are written."""
    return [CHECKOUT / "tasks" / account / "rbac.yaml", INFRARED]


def rules(account: str, *files: Path) -> list[tuple[str, str, str, str]]:
    """Group, resource, verb and name of everything that the Roles bound to an account give."""
    items = [item for file in files for item in yaml.safe_load_all(file.read_text()) if item]
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
        reach.kubectl("-n", name, "apply", "-f", str(INFRARED))

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
    granted = rules(account, *files(account))
    assert bool(granted) == (
        account in ("event-admit", "kserve-deploy", "mlflow-register", "route-shift", "shadow-replay")
    )
    for group, resource, verb, name in granted:
        assert may(account, resource, verb, group, name), (resource, verb, name)
        assert not may(account, resource, verb, group, name, namespace="default")
        if name:
            assert not may(account, resource, verb, group, "another"), (resource, verb)


@pytest.mark.parametrize("account", ACCOUNTS)
def test_an_account_reads_no_secret_starts_no_pod_deletes_nothing_and_gives_no_rights(may: May, account: str) -> None:
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


def listed(account: str) -> set[tuple[str, str, str, str]]:
    """Everything that an account may do in the catalog's namespace: what `kubectl auth can-i --list --as` shows."""
    from kubernetes import client, config

    connection = config.new_client_from_config(reach.kubeconfig())
    connection.set_default_header("Impersonate-User", f"system:serviceaccount:{NAMESPACE}:{account}")
    answer = client.AuthorizationV1Api(connection).create_self_subject_rules_review({"spec": {"namespace": NAMESPACE}})
    assert not answer.status.incomplete
    return {
        each
        for rule in answer.status.resource_rules
        for each in product(rule.api_groups, rule.resources, rule.verbs, rule.resource_names or [""])
    }


@pytest.mark.parametrize("account", ACCOUNTS)
@pytest.mark.usefixtures("review")
def test_an_account_has_its_role_and_what_every_account_has(account: str) -> None:
    everybody = listed("an-account-without-a-role")
    assert {group for group, *_ in everybody} <= {"authorization.k8s.io", "authentication.k8s.io"}
    own = listed(account) - everybody
    assert own == set(rules(account, *files(account)))
    assert {verb for _, _, verb, _ in own} <= {"get", "list", "create", "patch"}, "nothing may be deleted"
