"""The identity in a client's certificate."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Any
from unittest import mock

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from OpenSSL import crypto
from twisted.trial.unittest import SynchronousTestCase

from natproxy.server.certificate import LONGEST_IDENTITY, identity_in, identity_of
from tests.support.certificates import Authority


class IdentityTests(SynchronousTestCase):
    def setUp(self) -> None:
        path = Path(self.mktemp())
        path.mkdir(parents=True)
        self.authority = Authority(path)

    def identity(self, *names: x509.GeneralName, **options: Any) -> str | None:
        return identity_in(self.authority.certificate(*names, **options)[0])

    def test_first_name_of_a_kind_that_identifies_someone(self) -> None:
        mail, uri, dns = (
            x509.RFC822Name("ann@example.org"),
            x509.UniformResourceIdentifier("spiffe://example.org/backup"),
            x509.DNSName("backup.example.org"),
        )
        host = x509.IPAddress(ip_address("192.0.2.1"))
        for first, second in ((mail, uri), (uri, dns), (dns, mail)):
            self.assertEqual(self.identity(first, second, common="other"), first.value)
            self.assertEqual(self.identity(host, first, second), first.value)

    def test_common_name_only_if_there_is_no_such_name(self) -> None:
        host = x509.IPAddress(ip_address("192.0.2.1"))
        self.assertEqual(self.identity(common="backup"), "backup")
        self.assertEqual(self.identity(host, common="backup"), "backup")
        self.assertIsNone(self.identity())

    def test_names_that_are_no_printable_ascii_are_no_identities(self) -> None:
        longest = "a" * LONGEST_IDENTITY
        self.assertEqual(self.identity(x509.DNSName(longest)), longest)
        for name in ("", longest + "a", "a\nb", "a\0b", "a\x7f", " a"):
            with self.subTest(name=name):
                # The subject does not replace a name that is refused.
                found = self.identity(x509.DNSName(name), common="other")
                self.assertIsNone(found)
        for name in ("\u00e4", "a\u202eb", "b "):
            self.assertIsNone(self.identity(common=name))

    def test_malformed_names_are_no_identity(self) -> None:
        # A sequence that promises more bytes than there are.
        broken = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), b"\x30\x7f\x81")
        self.assertIsNone(self.identity(common="other", extensions=(broken,)))


class TransportTests(SynchronousTestCase):
    def test_certificate_that_only_openssl_accepts_is_no_identity(self) -> None:
        path = Path(self.mktemp())
        path.mkdir(parents=True)
        certificate, _ = Authority(path).certificate(common="ann")
        der = certificate.public_bytes(serialization.Encoding.DER)
        for version in (1, 4, 255):
            odd = der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01%c" % version, 1)
            shown = crypto.load_certificate(crypto.FILETYPE_ASN1, odd)
            self.assertIsNone(identity_of(mock.Mock(getPeerCertificate=lambda shown=shown: shown)))

    def test_without_tls_or_without_a_certificate_there_is_no_identity(self) -> None:
        class Anonymous:
            def getPeerCertificate(self) -> None:
                return None

        self.assertIsNone(identity_of(object()))
        self.assertIsNone(identity_of(Anonymous()))

    def test_certificate_of_the_transport(self) -> None:
        path = Path(self.mktemp())
        path.mkdir(parents=True)
        certificate, _ = Authority(path).certificate(x509.DNSName("backup"))

        class Shown:
            def to_cryptography(self) -> x509.Certificate:
                return certificate

        class Transport:
            def getPeerCertificate(self) -> Shown:
                return Shown()

        self.assertEqual(identity_of(Transport()), "backup")
