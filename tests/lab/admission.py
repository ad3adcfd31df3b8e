"""Every pod takes its images from the node: without a registry nothing can be pulled.

Kubernetes asks for a pull at each start of an image tagged `latest`, as Tekton's examples use them. A policy of the API
server changes that for all pods, so that the examples run as they are written.
"""

from __future__ import annotations

from lab.part import Lab, Object, Part

NAME = "images-of-the-node"
GROUP = "admissionregistration.k8s.io/v1beta1"


def _mutation(field: str) -> Object:
    changed = f'Object.spec.{field}{{name: c.name, imagePullPolicy: "IfNotPresent"}}'
    wanted = f"Object{{spec: Object.spec{{{field}: object.spec.{field}.map(c, {changed})}}}}"
    expression = f"has(object.spec.{field}) ? {wanted} : Object{{}}"
    return {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}


def start(lab: Lab) -> None:
    """The policy, and its binding to every namespace."""
    pods = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    lab.apply(
        [
            {
                "apiVersion": GROUP,
                "kind": "MutatingAdmissionPolicy",
                "metadata": {"name": NAME},
                "spec": {
                    "matchConstraints": {"resourceRules": [pods]},
                    "failurePolicy": "Fail",
                    "reinvocationPolicy": "IfNeeded",
                    "mutations": [_mutation("containers"), _mutation("initContainers")],
                },
            },
            {
                "apiVersion": GROUP,
                "kind": "MutatingAdmissionPolicyBinding",
                "metadata": {"name": NAME},
                "spec": {"policyName": NAME},
            },
        ]
    )


PART = Part("admission", start, lambda _: "", needs=("control-plane",), log="kube-apiserver")
