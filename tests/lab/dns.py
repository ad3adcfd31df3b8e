"""CoreDNS as the cluster's resolver, and the Services of what runs beside the cluster."""

from __future__ import annotations

from lab import images
from lab.part import DNS_IP, NAMESPACE, NODE_IP, Lab, Object, Part

COREFILE = """\
.:5353 {
    errors
    health
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        fallthrough in-addr.arpa ip6.arpa
    }
    cache 5
}
"""
LABELS = {"k8s-app": "kube-dns"}


def rbac(name: str, rules: list[Object]) -> list[Object]:
    """A ServiceAccount of kube-system with a ClusterRole of its own."""
    group = "rbac.authorization.k8s.io"
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": "kube-system"}},
        {"apiVersion": f"{group}/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules},
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": "kube-system"}],
        },
    ]


def _deployment() -> Object:
    container = {
        "name": "coredns",
        "image": images.name("coredns", "coredns"),
        "args": ["-conf", "/etc/coredns/Corefile"],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 2},
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns"}],
    }
    pod = {
        "serviceAccountName": "coredns",
        "dnsPolicy": "Default",
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "coredns", "namespace": "kube-system"},
        "spec": {"selector": {"matchLabels": LABELS}, "template": {"metadata": {"labels": LABELS}, "spec": pod}},
    }


def start(lab: Lab) -> None:
    """CoreDNS with its Service, and the namespace of the node's own services."""
    images.import_modules(lab, "coredns")
    core = {"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": ["list", "watch"]}
    slices = {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]}
    udp = {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 5353}
    tcp = {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 5353}
    lab.apply(
        [
            *rbac("coredns", [core, slices]),
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "coredns", "namespace": "kube-system"},
                "data": {"Corefile": COREFILE},
            },
            _deployment(),
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "kube-dns", "namespace": "kube-system"},
                "spec": {"clusterIP": DNS_IP, "selector": LABELS, "ports": [udp, tcp]},
            },
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        ]
    )


def external(name: str, port: int, *, node_port: int | None = None) -> list[Object]:
    """A Service in namespace isotherm-lab for a process of the node that listens on its address."""
    metadata = {"name": name, "namespace": NAMESPACE}
    ports = [{"name": "http", "port": port, "protocol": "TCP", "targetPort": node_port or port}]
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": ports}},
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": metadata | {"labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [NODE_IP], "conditions": {"ready": True}}],
            "ports": [{"name": "http", "port": node_port or port, "protocol": "TCP"}],
        },
    ]


PART = Part(
    "dns", start, lambda lab: lab.deployments_ready("kube-system"), needs=("kubelet", "admission"),
    modules=("coredns",), namespace="kube-system",
)  # fmt: skip
