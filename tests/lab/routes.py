"""OpenShift's Route as a CRD, and the lab's router that serves it (`router.py`), a process of the node.

On OpenShift the API server of openshift-apiserver knows Routes; here its published CRD does, so `oc set route-backends`
(a strategic-merge patch) needs `--dry-run=client -o json | oc replace -f -`.
"""

from __future__ import annotations

from isotherm_local.translation import IDLE_CONNECTIONS
from lab import daemons, golang, manifests, storage
from lab.dns import external
from lab.part import DOMAIN, NODE_IP, Lab, Part

HTTP_PORT, HTTPS_PORT, HEALTH_PORT = 8080, 8443, 8936
URL = f"http://{NODE_IP}:{HTTP_PORT}"


def start(lab: Lab) -> None:
    """The CRD, then the router."""
    start_with(lab, IDLE_CONNECTIONS[0])


def start_with(lab: Lab, idle_connections: str) -> None:
    """Start with one of the policies for idle connections, `translation.IDLE_CONNECTIONS`."""
    file = golang.openshift_api() / "route" / "v1" / "zz_generated.crd-manifests" / "routes.crd.yaml"
    lab.apply_definitions(manifests.documents(file))
    arguments = [
        f"--kubeconfig={lab.kubeconfig}", f"--folder={lab.folder('router')}",
        f"--bind={NODE_IP}", f"--http-port={HTTP_PORT}", f"--https-port={HTTPS_PORT}",
        f"--health-port={HEALTH_PORT}", f"--domain={DOMAIN}",
        f"--idle-connections={idle_connections}",
    ]  # fmt: skip
    daemons.start_module(lab, "router", "lab.router", *arguments)
    lab.apply(external("router", HTTP_PORT))


def ready(lab: Lab) -> str:
    """Its health page answers: HAProxy runs what the Routes say."""
    daemons.require(lab, "router")
    return storage.http_answers(f"http://127.0.0.1:{HEALTH_PORT}/healthz")


PART = Part(
    "router", start, ready, lambda lab: daemons.stop(lab, "router"), needs=("dns",), packages={"haproxy": "haproxy"},
    log="router",
)  # fmt: skip
