"""A certificate for one session, made when it opens and sent only to its nodes.

Nodes trust the endpoint because Flower, over its own authenticated channel, sent them this one
certificate; no certificate authority could sign another.
"""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

LIFETIME = datetime.timedelta(days=7)
CLOCK_SKEW = datetime.timedelta(hours=1)


@dataclass(frozen=True)
class SessionCertificate:
    """A self-signed certificate and its key.

    Attributes:
        certificate: The certificate as PEM, which is sent to nodes.
        key: The key as PEM, which stays in the memory of the server.
    """

    certificate: bytes
    key: bytes = field(repr=False)

    @classmethod
    def for_host(cls, host: str) -> SessionCertificate:
        """Return a certificate for the host name or IP address at which nodes reach the server."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "fedunlearn session")])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - CLOCK_SKEW)
            .not_valid_after(now + LIFETIME)
            .add_extension(x509.SubjectAlternativeName([_alternative(host)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(
            certificate.public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
