"""A server certificate made at start, and the CA that vouches for it, made known in an Interceptor object.

Reads   an Interceptor (triggers.tekton.dev/v1alpha1): spec.clientConfig.caBundle
Writes  that field, with this process's CA first, and the label by which listeners take it up; the key of the CA is
        forgotten as soon as it has signed
"""

from __future__ import annotations

import base64
import binascii
import random
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from isotherm import kube, tekton

if TYPE_CHECKING:
    from cryptography import x509

VALID_DAYS = 3650
BACKDATED = timedelta(hours=1)  # the listener's clock may be behind
KEPT_CAS = 4  # of replicas and of the process before this one, which serves until this one is ready
ATTEMPTS = 20
APPLY_SECONDS = 40.0  # less than what the liveness probe gives a pod that does not serve yet
# Listeners read the CAs of Interceptors with this label, and end where one of these has none: both come in one write.
TAKEN_UP = {"server/type": "https"}


@dataclass(frozen=True)
class Identity:
    """PEM texts: the CA's certificate, the server's with its key."""

    ca: bytes
    certificate: bytes
    key: bytes

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write certificate and key for the server, where nobody else can read them."""
        certificate, key = folder / "tls.crt", folder / "tls.key"
        certificate.write_bytes(self.certificate)
        key.touch(mode=0o600)
        key.write_bytes(self.key)
        return certificate, key


def make(service: str, namespace: str, now: datetime | None = None) -> Identity:
    """Make a CA and a certificate for a Service's names."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    now = now or datetime.now(UTC)
    names = [service, *(f"{service}.{namespace}{end}" for end in ("", ".svc", ".svc.cluster.local"))]
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = _builder(f"{service}.{namespace} CA"[:64], None, ca_key.public_key(), ca_key.public_key(), now)
    ca = ca.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    ca = ca.add_extension(_usage(signs=True), critical=True)
    ca_certificate = ca.sign(ca_key, hashes.SHA256())
    leaf = _builder(service[:64], ca_certificate.subject, key.public_key(), ca_key.public_key(), now)
    leaf = leaf.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    leaf = leaf.add_extension(_usage(signs=False), critical=True)
    leaf = leaf.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    leaf = leaf.add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Identity(ca_certificate.public_bytes(pem), leaf.sign(ca_key, hashes.SHA256()).public_bytes(pem), private)


def _builder(
    subject: str, issuer: x509.Name | None, public: object, signer: object, now: datetime
) -> x509.CertificateBuilder:
    from cryptography import x509

    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)])
    builder = x509.CertificateBuilder(subject_name=name, issuer_name=issuer or name, public_key=public)  # type: ignore[arg-type]
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - BACKDATED).not_valid_after(now + timedelta(days=VALID_DAYS))
    # CAs of several processes have one name: these tell the listener which one signed.
    own = x509.SubjectKeyIdentifier.from_public_key(public)  # type: ignore[arg-type]
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer)  # type: ignore[arg-type]
    return builder.add_extension(own, critical=False).add_extension(authority, critical=False)


def _usage(*, signs: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs, key_cert_sign=signs, crl_sign=signs, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def bundle(held: str, ca: bytes, now: datetime) -> str:
    """Put a CA first into a caBundle (base64 of PEM), keep the newest others, drop what has expired or is no CA."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        others = x509.load_pem_x509_certificates(base64.b64decode(held, validate=True)) if held else []
    except (ValueError, binascii.Error):
        others = []
    kept = [one.public_bytes(Encoding.PEM) for one in others if one.not_valid_after_utc > now]
    return base64.b64encode(b"".join([ca, *(one for one in kept if one != ca)][:KEPT_CAS])).decode()


def wait_for(cluster: kube.Cluster, interceptor: str, seconds: float = APPLY_SECONDS) -> None:
    """Wait until an Interceptor is there, or the time is over: an install may apply the Deployment before it."""
    deadline = time.monotonic() + seconds
    while cluster.get(kube.INTERCEPTOR, interceptor) is None and time.monotonic() < deadline:
        time.sleep(1)


def publish(cluster: kube.Cluster, interceptor: str, ca: bytes) -> bool:
    """Make sure that an Interceptor's caBundle holds a CA; tells whether it had to be written.

    Raises `tekton.BadInput` where there is no such Interceptor.
    """
    for _ in range(ATTEMPTS):
        stored = cluster.get(kube.INTERCEPTOR, interceptor)
        if stored is None:
            raise tekton.BadInput(
                f"there is no Interceptor {interceptor} in namespace {cluster.namespace}",
                remedy="install triggers/, or correct INTERCEPTOR_NAME",
            )
        held = str(((stored.get("spec") or {}).get("clientConfig") or {}).get("caBundle") or "")
        labels = stored["metadata"].get("labels") or {}
        if _holds(held, ca) and labels.items() >= TAKEN_UP.items():
            return False
        change = {
            "metadata": {"labels": TAKEN_UP},
            "spec": {"clientConfig": {"caBundle": bundle(held, ca, datetime.now(UTC))}},
        }
        try:
            cluster.patch(kube.INTERCEPTOR, interceptor, change, stored["metadata"]["resourceVersion"])
            return True
        except kube.Conflict:
            time.sleep(random.uniform(0, 0.2))  # noqa: S311 (jitter, no secret)
    raise tekton.Unavailable(f"Interceptor {interceptor} kept changing", remedy="start again")


def _holds(held: str, ca: bytes) -> bool:
    try:
        return ca.strip() in base64.b64decode(held, validate=True)
    except (ValueError, binascii.Error):
        return False
