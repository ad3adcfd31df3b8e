"""The machine under the cluster: network bridge, containerd, kubelet, kube-proxy, and their removal.

containerd's and the kubelet's folders hold mounts and network namespaces; `stop` takes them down before the files go.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import yaml

from isotherm_local.processes import Process, end
from lab import daemons, golang
from lab.part import DNS_IP, NODE_IP, NODE_NAME, POD_NETWORK, Lab, LabError, Part

BRIDGE = "lab0"
RUN = Path("/run/isotherm-lab")  # sockets: a path in a UNIX socket holds 108 characters
SOCKET = RUN / "containerd.sock"
SYSCTLS = {"net.ipv4.ip_forward": "1", "net.bridge.bridge-nf-call-iptables": "1"}


def run(*command: str, check: bool = True) -> str:
    """Run a system command; raises `LabError` with what it said."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise LabError(f"{' '.join(command)[:100]}: {done.stderr.strip()[-300:]}")
    return done.stdout


def ctr(*arguments: str) -> str:
    """containerd's own client, in Kubernetes' namespace of images."""
    return run("ctr", f"--address={SOCKET}", "--namespace=k8s.io", *arguments)


def _bridge() -> None:
    """The pods' bridge, with the node's address, before the kubelet starts: else the node has no InternalIP."""
    if not Path(f"/sys/class/net/{BRIDGE}").exists():
        run("ip", "link", "add", BRIDGE, "type", "bridge")
    if NODE_IP not in run("ip", "-o", "-4", "address", "show", "dev", BRIDGE):
        run("ip", "address", "add", f"{NODE_IP}/{POD_NETWORK.partition('/')[2]}", "dev", BRIDGE)
    run("ip", "link", "set", BRIDGE, "up")
    for name, value in SYSCTLS.items():
        with contextlib.suppress(LabError):  # the second exists only with the module br_netfilter
            run("sysctl", "-qw", f"{name}={value}")


def _containerd_config(lab: Lab) -> str:
    # restrict_oom_score_adj and disable_apparmor: both are refused to root of a machine that is itself confined.
    return f"""\
version = 2
root = "{lab.cache / "containerd"}"
state = "{RUN}/containerd"
oom_score = 0
[grpc]
  address = "{SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "lab.local/pause:1"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{lab.folder("cni")}"
"""


def _cni() -> dict[str, object]:
    # No masquerading and no port maps: pods speak to each other and to the node, and iptables stays as it was.
    bridge = {
        "type": "bridge", "bridge": BRIDGE, "isGateway": True, "hairpinMode": True,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": POD_NETWORK}]], "routes": [{"dst": "0.0.0.0/0"}]},
    }  # fmt: skip
    return {"cniVersion": "1.0.0", "name": "lab", "plugins": [bridge]}


def start_containerd(lab: Lab) -> None:
    """Bridge, CNI configuration, containerd."""
    if os.geteuid() != 0:
        raise LabError("the lab needs root (network bridge, mounts); run it as root, or set KUBECONFIG to your cluster")
    _bridge()
    RUN.mkdir(parents=True, exist_ok=True)
    (lab.cache / "containerd").mkdir(parents=True, exist_ok=True)
    (lab.folder("cni") / "10-lab.conflist").write_text(json.dumps(_cni()))
    config = lab.folder("etc") / "containerd.toml"
    config.write_text(_containerd_config(lab))
    daemons.start(lab, "containerd", ["containerd", "-c", str(config)])


def containerd_ready(lab: Lab) -> str:
    """containerd answers."""
    daemons.require(lab, "containerd")
    with contextlib.suppress(LabError):
        ctr("version")
        return ""
    return "containerd does not answer yet"


def start_kubelet(lab: Lab) -> None:
    """The kubelet and kube-proxy."""
    resolv = lab.folder("etc") / "resolv.conf"
    # Loopback resolvers and search domains mean nothing inside a pod; an empty file sends no query out.
    lines = Path("/etc/resolv.conf").read_text().splitlines() if Path("/etc/resolv.conf").exists() else []
    kept = [line for line in lines if line.startswith("nameserver ") and not line.startswith("nameserver 127.")]
    resolv.write_text("".join(f"{line}\n" for line in kept))
    config = lab.folder("etc") / "kubelet.yaml"
    config.write_text(yaml.safe_dump(_kubelet_config(lab, resolv)))
    kubelet = [
        str(golang.binary(lab, "kubernetes", "kubelet")), f"--config={config}", f"--kubeconfig={lab.kubeconfig}",
        f"--root-dir={lab.folder('kubelet')}", f"--hostname-override={NODE_NAME}", f"--node-ip={NODE_IP}",
    ]  # fmt: skip
    daemons.start(lab, "kubelet", kubelet)
    proxy = [
        str(golang.binary(lab, "kubernetes", "kube-proxy")), f"--kubeconfig={lab.kubeconfig}", "--proxy-mode=nftables",
        f"--cluster-cidr={POD_NETWORK}", f"--hostname-override={NODE_NAME}", "--conntrack-max-per-core=0",
    ]  # fmt: skip
    daemons.start(lab, "kube-proxy", proxy)


def _kubelet_config(lab: Lab, resolv: Path) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(lab.pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "clusterDomain": "cluster.local",
        "clusterDNS": [DNS_IP],
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        "cgroupDriver": "cgroupfs",
        "failSwapOn": False,
        "failCgroupV1": False,
        "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%", "memory.available": "50Mi"},
        "imageGCHighThresholdPercent": 100,
        "maxPods": 200,
        "resolvConf": str(resolv),
        "registryPullQPS": 0,
        "makeIPTablesUtilChains": False,
        # Some sysctls and oom scores are refused to a confined root.
        "featureGates": {"KubeletInUserNamespace": True},
    }


def kubelet_ready(lab: Lab) -> str:
    """The node says Ready."""
    daemons.require(lab, "kubelet")
    daemons.require(lab, "kube-proxy")
    for item in lab.get("nodes")["items"]:
        for condition in item["status"].get("conditions", []):
            if condition["type"] == "Ready" and condition["status"] == "True":
                return ""
    return "the node is not Ready"


def stop_kubelet(lab: Lab) -> None:
    """End the kubelet, then the containers it left, then its mounts."""
    daemons.stop(lab, "kube-proxy")
    daemons.stop(lab, "kubelet")
    if daemons.find(lab, "containerd"):
        _remove_containers()
    _unmount(lab.state / "kubelet")


def _remove_containers() -> None:
    for task in ctr("task", "ls", "-q").split():
        with contextlib.suppress(LabError):
            ctr("task", "kill", "--signal=SIGKILL", "--all", task)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        left = [line for line in ctr("task", "ls").splitlines()[1:] if "RUNNING" in line]
        if not left:
            break
        time.sleep(0.2)
    for task in ctr("task", "ls", "-q").split():
        with contextlib.suppress(LabError):
            ctr("task", "rm", "--force", task)
    for container in ctr("container", "ls", "-q").split():
        with contextlib.suppress(LabError):
            ctr("container", "rm", container)


def _mounts_under(folder: Path) -> list[str]:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    found = [line.split()[1].replace("\\040", " ") for line in lines]
    return sorted((m for m in found if Path(m).is_relative_to(folder)), key=len, reverse=True)


def _unmount(folder: Path) -> None:
    for mount in _mounts_under(folder):
        run("umount", "-l", mount, check=False)


def stop_containerd(lab: Lab) -> None:
    """End containerd and its shims, unmount, remove the pods' network namespaces, the bridge and kube-proxy's rules."""
    shims = [p for p in _shims() if p.alive()]
    daemons.stop(lab, "containerd")
    end(shims, 3.0)
    for folder in (RUN, lab.cache / "containerd"):
        _unmount(folder)
    for namespace in Path("/var/run/netns").glob("cni-*"):
        run("umount", "-l", str(namespace), check=False)
        namespace.unlink(missing_ok=True)
    if Path(f"/sys/class/net/{BRIDGE}").exists():
        run("ip", "link", "delete", BRIDGE, check=False)
    for family in ("ip", "ip6"):
        run("nft", "delete", "table", family, "kube-proxy", check=False)
    shutil.rmtree("/var/lib/cni/networks/lab", ignore_errors=True)
    shutil.rmtree(RUN, ignore_errors=True)


def _shims() -> list[Process]:
    """containerd's shims of this lab, known by the socket on their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if "containerd-shim" in words[0] and str(SOCKET) in words:
                    found.append(Process.of(int(entry.name)))
    return found


CONTAINERD = Part(
    "containerd", start_containerd, containerd_ready, stop_containerd, log="containerd",
    packages={
        "containerd": "containerd", "runc": "runc", "/usr/lib/cni/bridge": "containernetworking-plugins",
        "nft": "nftables", "conntrack": "conntrack", "ip": "iproute2", "openssl": "openssl",
    },
)  # fmt: skip
KUBELET = Part(
    "kubelet", start_kubelet, kubelet_ready, stop_kubelet, needs=("control-plane", "images"), modules=("kubernetes",),
    log="kubelet",
)  # fmt: skip
