"""The certificate that the lab's router shows for every host: given, or made here.

Outputs  `<folder>/haproxy/router.pem` (key and certificate, mode 0600) and `<folder>/router-ca.crt` (to trust)
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from pathlib import Path

from isotherm_local.translation import CERTIFICATE

DAYS = 90
RENEW_DAYS = 7


def install(folder: Path, domain: str, address: str, given: Path | None = None) -> None:
    """Put the certificate where HAProxy reads it; a self-made one stays until it has only a week left."""
    path, public = folder / "haproxy" / CERTIFICATE, folder / "router-ca.crt"
    path.parent.mkdir(parents=True, exist_ok=True)
    if given is not None:
        text = given.read_text(encoding="utf-8")
        first = text.index("-----BEGIN CERTIFICATE-----")
        end = "-----END CERTIFICATE-----\n"
        public_text = text[first : text.index(end, first) + len(end)]
    elif _fresh(public) and path.exists():
        return
    else:
        text, public_text = _make(domain, address)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    public.write_text(public_text, encoding="utf-8")


def _fresh(public: Path) -> bool:
    from cryptography import x509

    if not public.exists():
        return False
    left = x509.load_pem_x509_certificate(public.read_bytes()).not_valid_after_utc - _now()
    return left > datetime.timedelta(days=RENEW_DAYS)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _make(domain: str, address: str) -> tuple[str, str]:
    """Make a self-signed certificate for every generated host; returns key with certificate, and certificate."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"router-default.apps.{domain}")])
    hosts = [x509.DNSName(f"*.apps.{domain}"), x509.IPAddress(ipaddress.ip_address(address))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - datetime.timedelta(hours=1))
        .not_valid_after(_now() + datetime.timedelta(days=DAYS))
        .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        # Clients name this very certificate as their authority; OpenSSL wants it to be allowed to be one.
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    public = certificate.public_bytes(serialization.Encoding.PEM).decode()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    return private + public, public
