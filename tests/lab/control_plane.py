"""etcd, the API server, the controllers and the scheduler: processes of this machine, not pods."""

from __future__ import annotations

from lab import daemons, golang, pki
from lab.part import NODE_IP, POD_NETWORK, SERVICE_NETWORK, Lab, Part

ETCD = "http://127.0.0.1:12379"
# Kubernetes and etcd's client each bring the same protobuf files. A seventh of the API server's time was its collector.
ENV = {"GOLANG_PROTOBUF_REGISTRATION_CONFLICT": "ignore", "GOGC": "300"}


def start(lab: Lab) -> None:
    """Certificates, then the four processes; the last two wait for the API server by themselves."""
    pki.make(lab)
    etcd = [
        "etcd", f"--data-dir={lab.state / 'etcd'}", f"--listen-client-urls={ETCD}", f"--advertise-client-urls={ETCD}",
        "--listen-peer-urls=http://127.0.0.1:12380", "--unsafe-no-fsync", "--log-level=error",
    ]  # fmt: skip
    daemons.start(lab, "etcd", etcd)
    start_apiserver(lab)
    manager = [
        str(golang.binary(lab, "kubernetes", "kube-controller-manager")), f"--kubeconfig={lab.kubeconfig}",
        f"--service-account-private-key-file={lab.pki}/sa.key", f"--root-ca-file={lab.pki}/ca.crt",
        f"--cluster-signing-cert-file={lab.pki}/ca.crt", f"--cluster-signing-key-file={lab.pki}/ca.key",
        "--use-service-account-credentials", "--leader-elect=false",
        f"--cluster-cidr={POD_NETWORK}",
    ]  # fmt: skip
    daemons.start(lab, "kube-controller-manager", manager, env=ENV)
    scheduler = [
        str(golang.binary(lab, "kubernetes", "kube-scheduler")), f"--kubeconfig={lab.kubeconfig}",
        "--leader-elect=false",
    ]  # fmt: skip
    daemons.start(lab, "kube-scheduler", scheduler, env=ENV)


def start_apiserver(lab: Lab) -> None:
    """The API server alone, as a test that stopped it starts it again."""
    p = lab.pki
    command = [
        str(golang.binary(lab, "kubernetes", "kube-apiserver")), f"--etcd-servers={ETCD}",
        f"--service-cluster-ip-range={SERVICE_NETWORK}", "--bind-address=0.0.0.0", f"--advertise-address={NODE_IP}",
        "--secure-port=6443", f"--tls-cert-file={p}/apiserver.crt", f"--tls-private-key-file={p}/apiserver.key",
        f"--client-ca-file={p}/ca.crt", "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-signing-key-file={p}/sa.key", f"--service-account-key-file={p}/sa.pub",
        "--authorization-mode=RBAC", f"--kubelet-client-certificate={p}/admin.crt",
        f"--kubelet-client-key={p}/admin.key", "--allow-privileged", f"--requestheader-client-ca-file={p}/ca.crt",
        f"--proxy-client-cert-file={p}/front.crt", f"--proxy-client-key-file={p}/front.key",
        "--enable-aggregator-routing", "--kubelet-preferred-address-types=InternalIP",
        "--enable-admission-plugins=NodeRestriction", "--feature-gates=MutatingAdmissionPolicy=true",
        "--runtime-config=admissionregistration.k8s.io/v1beta1=true",
    ]  # fmt: skip
    daemons.start(lab, "kube-apiserver", command, env=ENV)


DAEMONS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")


def ready(lab: Lab) -> str:
    """The API server is ready and the other processes run."""
    for name in DAEMONS:
        daemons.require(lab, name)
    answer = lab.kubectl("get", "--raw=/readyz", "--request-timeout=3s", check=False)
    return "" if answer == "ok" else "the API server is not ready"


def stop(lab: Lab) -> None:
    """End the four, the API server before its store."""
    for name in ("kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd"):
        daemons.stop(lab, name)


PART = Part(
    "control-plane", start, ready, stop, needs=("containerd",), modules=("kubernetes",), log="kube-apiserver",
    packages={"etcd": "etcd-server"},
)  # fmt: skip
