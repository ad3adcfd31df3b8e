"""Every pod takes its images from the node: without a registry nothing can be pulled.

Kubernetes asks for a pull at each start of an image tagged `latest`, as Tekton's examples use them. A policy of the API
server changes that for all pods, so that the examples run as they are written.

In a namespace that enforces the profile restricted, another policy gives pods, where they name none, a UID of the
namespace's range and an fsGroup: as OpenShift's restricted-v2 does.
"""

from __future__ import annotations

from lab.part import Lab, Object, Part

RANGE = 1_000_680_000  # first UID of a range, as OpenShift gives each namespace one
GROUP = "admissionregistration.k8s.io/v1beta1"


def _mutation(field: str) -> Object:
    changed = f'Object.spec.{field}{{name: c.name, imagePullPolicy: "IfNotPresent"}}'
    wanted = f"Object{{spec: Object.spec{{{field}: object.spec.{field}.map(c, {changed})}}}}"
    expression = f"has(object.spec.{field}) ? {wanted} : Object{{}}"
    return {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}


def _given(field: str) -> Object:
    """Set a field of the pod's security context that the pod does not name."""
    named = f"has(object.spec.securityContext) && has(object.spec.securityContext.{field})"
    wanted = f"Object{{spec: Object.spec{{securityContext: Object.spec.securityContext{{{field}: {RANGE}}}}}}}"
    return {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": f"{named} ? Object{{}} : {wanted}"}}


def _policy(name: str, namespaces: Object, *mutations: Object) -> list[Object]:
    """A policy for new pods of the namespaces that a selector names, and its binding."""
    pods = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    return [
        {
            "apiVersion": GROUP,
            "kind": "MutatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {
                "matchConstraints": {"resourceRules": [pods], "namespaceSelector": namespaces},
                "failurePolicy": "Fail",
                "reinvocationPolicy": "IfNeeded",
                "mutations": list(mutations),
            },
        },
        {
            "apiVersion": GROUP,
            "kind": "MutatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {"policyName": name},
        },
    ]


def start(lab: Lab) -> None:
    """The policies, each with its binding."""
    restricted = {
        "matchLabels": {"pod-security.kubernetes.io/enforce": "restricted"},
        # Tekton's own namespaces enforce the profile as well, and its manifests say what their pods run as.
        "matchExpressions": [{"key": "app.kubernetes.io/part-of", "operator": "NotIn", "values": ["tekton-pipelines"]}],
    }
    lab.apply(
        [
            *_policy("images-of-the-node", {}, _mutation("containers"), _mutation("initContainers")),
            *_policy("restricted-v2", restricted, _given("runAsUser"), _given("fsGroup")),
        ]
    )


PART = Part("admission", start, lambda _: "", needs=("control-plane",), log="kube-apiserver")
