"""A certificate authority for tests, and the files that it makes."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

LIFETIME = datetime.timedelta(hours=1)


@dataclass(frozen=True)
class Authority:
    """A CA; its certificate is ``NAME-ca.pem`` in the folder."""

    folder: Path
    name: str
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def make(cls, folder: Path, name: str) -> Authority:
        authority = cls(folder, name, ec.generate_private_key(ec.SECP256R1()))
        certificate = authority._builder(name, authority.key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        authority._write(authority.certificate, certificate)
        return authority

    @property
    def certificate(self) -> Path:
        return self.folder / f"{self.name}-ca.pem"

    def issue(self, name: str, key: Path | None = None) -> tuple[Path, Path]:
        """Return the files of a certificate for 127.0.0.1 and of its key, made where not given."""
        if key is None:
            key = self.folder / f"{name}.key"
            private: Any = ec.generate_private_key(ec.SECP256R1())
            key.write_bytes(
                private.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
            )
        else:
            private = serialization.load_pem_private_key(key.read_bytes(), None)
        path = self.folder / f"{name}-{self.name}.pem"
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        self._write(
            path,
            self._builder(name, private.public_key()).add_extension(
                x509.SubjectAlternativeName([address]), critical=False
            ),
        )
        return path, key

    def _builder(self, name: str, public: Any) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name(self.name))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - LIFETIME)
            .not_valid_after(now + LIFETIME)
        )

    def _write(self, path: Path, builder: x509.CertificateBuilder) -> None:
        signed = builder.sign(self.key, hashes.SHA256())
        path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
