"""Files of certificates and keys, checked so that an error names the file and the reason."""

from __future__ import annotations

import os
import re

from natproxy.kernel.small_file import UnsuitableFile, read_small_file

_CERTIFICATE = re.compile(rb"-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----")
_KEY = re.compile(rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----")
_ENCRYPTED = re.compile(rb"-----BEGIN ENCRYPTED PRIVATE KEY-----|^Proc-Type: 4,ENCRYPTED", re.M)

LARGEST = 16 << 20
"""Bytes of a file at most: the system's authorities have less than 1 MiB."""


class CertificateError(Exception):
    """A certificate or a key cannot be used. The text is one line that names the file."""


def check_authorities(path: str) -> list[str]:
    """Return the files of trusted authorities: the path itself, or those of a directory.

    :raises CertificateError: if one cannot be read, or there is no certificate.
    """
    if not os.path.isdir(path):
        _require_certificate(path, _read(path))
        return [path]
    try:
        names = sorted(name for name in os.listdir(path) if name.endswith(".pem"))
    except OSError as error:
        raise CertificateError(f"{path}: {error.strerror}") from error
    files = [os.path.join(path, name) for name in names]
    if not files:
        raise CertificateError(f"{path}: the directory has no file that ends with .pem")
    for file in files:
        _require_certificate(file, _read(file))
    return files


def check_pair(cert: str, key: str) -> None:
    """Check the files of a certificate and its key, as far as that needs no cryptography.

    :raises CertificateError: if one cannot be read, has something else in it, or is encrypted.
    """
    certificate, private = _read(cert), _read(key)
    if not _CERTIFICATE.search(certificate) and _KEY.search(certificate):
        if _CERTIFICATE.search(private):
            raise CertificateError(
                f"{cert} is a private key, and {key} a certificate: they are swapped"
            )
        raise CertificateError(f"{cert}: contains a private key and no certificate")
    _require_certificate(cert, certificate)
    if not _KEY.search(private):
        raise CertificateError(f"{key}: contains no private key in PEM form")
    if _ENCRYPTED.search(private):
        raise CertificateError(
            f"{key}: the private key is encrypted; write it without a passphrase (openssl pkey)"
        )


def mismatch(cert: str, key: str) -> CertificateError:
    """Return the error for a key that does not belong to a certificate."""
    return CertificateError(f"{key}: not the private key of the certificate {cert}")


def unusable(path: str, reason: object) -> CertificateError:
    """Return the error for a file that OpenSSL does not accept.

    :param reason: OpenSSL's text.
    """
    return CertificateError(f"{path}: malformed certificate or key ({reason})")


def _require_certificate(path: str, content: bytes) -> None:
    if not _CERTIFICATE.search(content):
        raise CertificateError(f"{path}: contains no certificate in PEM form")


def _read(path: str) -> bytes:
    try:
        return read_small_file(path, LARGEST)
    except UnsuitableFile as error:
        raise CertificateError(f"{path}: {error}") from None
    except OSError as error:
        raise CertificateError(f"{path}: {error.strerror or error}") from error
