"""Certificates for servers of the tests: of an authority of their own, or signed by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PEM = serialization.Encoding.PEM


def make_certificate(folder: Path, *, days: float, days_ago: float = 0) -> Path:
    """A file with a key and a certificate for localhost that it has signed itself."""
    key, host = new_key(), "localhost"
    certificate = signed(host, key, host, key, names=[host], days=days, days_ago=days_ago)
    file = folder / "certificate.pem"
    file.write_bytes(with_key(certificate, key))
    return file


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def with_key(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> bytes:
    secret = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return secret + certificate.public_bytes(PEM)


def signed(
    subject: str, key: ec.EllipticCurvePrivateKey,
    issuer: str, issuer_key: ec.EllipticCurvePrivateKey, *,
    names: Sequence[str] = (), ca: bool = False, days: float = 1, days_ago: float = 1,
) -> x509.Certificate:  # fmt: skip
    """A certificate for `names`, or of an authority, that is valid for `days`, `days_ago` on."""

    def named(name: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])

    begins = datetime.now(UTC) - timedelta(days=days_ago)
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
         "encipher_only", "decipher_only"), False,
    )  # fmt: skip
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    made = (
        x509.CertificateBuilder()
        .subject_name(named(subject))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(identifier, critical=False)
        .add_extension(
            x509.KeyUsage(digital_signature=True, key_cert_sign=ca, crl_sign=ca, **usage),
            critical=True,
        )
    )
    if names:
        made = made.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(host) for host in names]), critical=False
        )
    return made.sign(issuer_key, hashes.SHA256())
