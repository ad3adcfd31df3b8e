"""One certificate authority of the lab's own, and what it signs. Made at every `up` from nothing; never in a commit.

Output: `pki/NAME.crt` and `NAME.key`, `pki/sa.key` and `sa.pub` (service-account tokens), a kubeconfig for root.
"""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import yaml

from lab.part import API_IP, NODE_IP, Lab, LabError

_SERVICE_NAMES = "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:localhost"
CERTIFICATES = {
    "apiserver": ("/CN=kube-apiserver", f"subjectAltName={_SERVICE_NAMES},IP:127.0.0.1,IP:{API_IP},IP:{NODE_IP}"),
    "admin": ("/O=system:masters/CN=admin", "extendedKeyUsage=clientAuth"),
    "front": ("/CN=front-proxy", "extendedKeyUsage=clientAuth"),
}


def _openssl(*arguments: str, cwd: Path) -> None:
    done = subprocess.run(["openssl", *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"openssl {arguments[0]}: {done.stderr.strip()[-300:]}")


def sign(lab: Lab, name: str, subject: str, extension: str) -> None:
    """Make `NAME.key` and a certificate of it that lasts 30 days."""
    if (lab.pki / f"{name}.crt").exists():
        return
    _openssl(
        "req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", subject,
        cwd=lab.pki,
    )  # fmt: skip
    (lab.pki / f"{name}.ext").write_text(extension)
    _openssl(
        "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30",
        "-out", f"{name}.crt", "-extfile", f"{name}.ext",
        cwd=lab.pki,
    )  # fmt: skip


def make(lab: Lab) -> None:
    """Make everything that is not there yet."""
    lab.folder("pki").chmod(0o700)
    if not (lab.pki / "ca.crt").exists():
        _openssl(
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-keyout", "ca.key", "-out", "ca.crt",
            "-subj", "/CN=isotherm-lab",
            cwd=lab.pki,
        )  # fmt: skip
        _openssl("genrsa", "-out", "sa.key", "2048", cwd=lab.pki)
        _openssl("rsa", "-in", "sa.key", "-pubout", "-out", "sa.pub", cwd=lab.pki)
    for name, (subject, extension) in CERTIFICATES.items():
        sign(lab, name, subject, extension)
    _kubeconfig(lab)


def encoded(lab: Lab, file: str) -> str:
    """A file of the folder in base64, as Kubernetes' objects want it."""
    return base64.b64encode((lab.pki / file).read_bytes()).decode()


def _kubeconfig(lab: Lab) -> None:
    cluster = {"server": "https://127.0.0.1:6443", "certificate-authority-data": encoded(lab, "ca.crt")}
    user = {"client-certificate-data": encoded(lab, "admin.crt"), "client-key-data": encoded(lab, "admin.key")}
    lab.kubeconfig.touch(0o600)
    lab.kubeconfig.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "lab", "cluster": cluster}],
                "users": [{"name": "admin", "user": user}],
                "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "admin"}}],
                "current-context": "lab",
            }
        )
    )


def serving_secret(lab: Lab, name: str, namespace: str, service: str) -> dict[str, object]:
    """A TLS Secret for a webhook's Service."""
    host = f"{service}.{namespace}.svc"
    file = f"{namespace}-{service}"
    sign(lab, file, f"/CN={service}", f"subjectAltName=DNS:{host},DNS:{host}.cluster.local,DNS:{service}.{namespace}")
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {"name": name, "namespace": namespace},
        "data": {"tls.crt": encoded(lab, f"{file}.crt"), "tls.key": encoded(lab, f"{file}.key")},
    }
