"""Certificates for tests: an authority, and the certificates that it signs."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


class Files(NamedTuple):
    """The PEM files of a certificate and of its key."""

    cert: str
    key: str


class Authority:
    """Signs certificates; its own is in a file.

    :ivar ca: the path of its certificate.
    """

    def __init__(self, directory: Path, name: str = "authority") -> None:
        self._directory = directory
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(self._name, self._key, DAY)
        builder = builder.issuer_name(self._name).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        path = directory / f"{name}.pem"
        path.write_bytes(_pem(builder.sign(self._key, hashes.SHA256())))
        self.ca = str(path)

    def certificate(
        self,
        *names: x509.GeneralName,
        common: str = "",
        left: datetime.timedelta = DAY,
        extensions: tuple[x509.ExtensionType, ...] = (),
    ) -> tuple[x509.Certificate, Any]:
        """Return a certificate and its key.

        :param names: its alternative names.
        :param common: the common name of its subject.
        :param left: time that it is still valid.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common)] if common else []
        builder = _builder(x509.Name(attributes), key, left).issuer_name(self._name)
        if names:
            extensions = (x509.SubjectAlternativeName(names), *extensions)
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(self._key, hashes.SHA256()), key

    def issue(self, *hosts: str, left: datetime.timedelta = DAY, file: str = "") -> Files:
        """Return the files of a certificate for hosts: names or addresses.

        :param file: the name of the files, without a suffix; by default the first host's.
        """
        made = self.certificate(*map(_host, hosts), common=hosts[0], left=left)
        return self._write(file or hosts[0].replace("@", "-at-"), *made)

    def issue_names(
        self, names: Sequence[x509.GeneralName], *extensions: x509.ExtensionType
    ) -> Files:
        """Return the files of a certificate with alternative names of any kind."""
        return self._write("names", *self.certificate(*names, common="x", extensions=extensions))

    def _write(self, file: str, certificate: x509.Certificate, key: Any) -> Files:
        base = self._directory / file
        files = Files(f"{base}.cert.pem", f"{base}.key.pem")
        Path(files.cert).write_bytes(_pem(certificate))
        Path(files.key).write_bytes(key_pem(key))
        return files


def key_pem(key: Any, password: bytes = b"") -> bytes:
    """Return a key as PEM, encrypted if there is a password."""
    encryption: Any = serialization.NoEncryption()
    if password:
        encryption = serialization.BestAvailableEncryption(password)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.RFC822Name(host) if "@" in host else x509.DNSName(host)


def _builder(name: x509.Name, key: Any, left: datetime.timedelta) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 30 * DAY)
        .not_valid_after(now + left)
    )
