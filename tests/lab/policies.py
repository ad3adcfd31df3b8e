"""kube-router as a firewall and nothing else: NetworkPolicies are enforced while it runs. Started when asked for.

The bridge network of the lab knows no policies. kube-router watches them and writes iptables rules and ipsets; routing
and Services stay what they are.
"""

from __future__ import annotations

import re
import subprocess

from lab import daemons, golang, storage
from lab.part import NODE_NAME, SERVICE_NETWORK, Lab, Part

HEALTH_PORT = 20244
_CHAINS = re.compile("KUBE-(NWPLCY|POD-FW|ROUTER)")


def start(lab: Lab) -> None:
    """The firewall; pods are reached as before until the first policy selects them."""
    command = [
        str(golang.binary(lab, "kube-router", "kube-router")), f"--kubeconfig={lab.kubeconfig}",
        "--run-firewall=true", "--run-router=false", "--run-service-proxy=false", "--run-loadbalancer=false",
        f"--hostname-override={NODE_NAME}", f"--service-cluster-ip-range={SERVICE_NETWORK}",
        f"--health-port={HEALTH_PORT}", "--metrics-port=0",
    ]  # fmt: skip
    daemons.start(lab, "kube-router", command, env={"NODE_NAME": NODE_NAME})


def ready(lab: Lab) -> str:
    """Its health page answers."""
    daemons.require(lab, "kube-router")
    return storage.http_answers(f"http://127.0.0.1:{HEALTH_PORT}/healthz")


def stop(lab: Lab) -> None:
    """End it and remove its rules, which would outlive it (its own `--cleanup-config` panics in this version)."""
    if daemons.find(lab, "kube-router") is None:
        return
    daemons.stop(lab, "kube-router")
    for family in ("iptables", "ip6tables"):
        saved = subprocess.run([f"{family}-save"], capture_output=True, text=True, check=False).stdout
        kept = "".join(f"{line}\n" for line in saved.splitlines() if not _CHAINS.search(line))
        subprocess.run([f"{family}-restore"], input=kept, capture_output=True, text=True, check=False)
    names = subprocess.run(["ipset", "list", "-n"], capture_output=True, text=True, check=False).stdout.split()
    for name in names:
        if "KUBE-" in name:
            subprocess.run(["ipset", "destroy", name], capture_output=True, check=False)


PART = Part(
    "network-policies", start, ready, stop, needs=("kubelet",), modules=("kube-router",), log="kube-router", core=False,
    packages={"iptables": "iptables", "ipset": "ipset"},
)  # fmt: skip
