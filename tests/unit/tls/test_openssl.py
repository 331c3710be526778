"""TLS by pyOpenSSL: both ends in memory, without a socket."""

from __future__ import annotations

import contextlib
import datetime
import os
from pathlib import Path

from cryptography import x509
from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from natproxy.tls.files import CertificateError
from natproxy.tls.openssl import ClientTLS, Refused, ServerFiles, ServerTLS, explain
from natproxy.tls.options import TLSOptions
from tests.support.certificates import Authority, Files


def shake_hands(client: SSL.Connection, server: SSL.Connection) -> None:
    """Run the handshake of two ends, and one exchange of a byte after it."""
    finished = set()
    for _ in range(20):
        for one, other in ((client, server), (server, client)):
            if one not in finished:
                with contextlib.suppress(SSL.WantReadError):
                    one.do_handshake()
                    finished.add(one)
                move(one, other)
        if len(finished) == 2:
            break
    # Tickets, and the server's verdict about the client's certificate, follow the handshake.
    for sender, receiver in ((client, server), (server, client)):
        sender.send(b"x")
        move(sender, receiver)
        receiver.recv(1)


def move(sender: SSL.Connection, receiver: SSL.Connection) -> None:
    with contextlib.suppress(SSL.WantReadError):
        receiver.bio_write(sender.bio_read(1 << 20))


class OpenSSLCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir(parents=True)
        self.authority = Authority(self.directory)
        self.other = Authority(self.directory, "other")
        self.pair = self.authority.issue("server.example", "192.0.2.1", "2001:db8::1")

    def server(self, pair: Files | None = None, client_ca: str | None = None) -> ServerTLS:
        cert, key = pair or self.pair
        return ServerTLS(ServerFiles(cert, key, client_ca=client_ca))

    def client(self, host: str = "server.example", **options: object) -> ClientTLS:
        return ClientTLS(TLSOptions(ca=self.authority.ca)._replace(**options), host)

    def connect(self, client: ClientTLS, server: ServerTLS) -> SSL.Connection:
        here = client.clientConnectionForTLS(object())
        there = server.serverConnectionForTLS(object())
        here.set_connect_state()
        there.set_accept_state()
        shake_hands(here, there)
        return there

    def refused(self, client: ClientTLS, server: ServerTLS) -> str:
        error = self.assertRaises(SSL.Error, self.connect, client, server)
        reason = explain(error)
        assert reason is not None, error
        return reason


class VerificationTests(OpenSSLCase):
    def test_names_and_addresses(self) -> None:
        for host in ("server.example", "SERVER.example.", "192.0.2.1", "2001:db8::1"):
            self.connect(self.client(host), self.server())
        for host in ("example", "other.example", "192.0.2.2", "2001:db8::2"):
            reason = self.refused(self.client(host), self.server())
            self.assertEqual(reason, f"its certificate is not for the name {host}")

    def test_zone_is_not_part_of_the_address(self) -> None:
        self.connect(self.client("2001:db8::1%eth0"), self.server())

    def test_untrusted_and_expired(self) -> None:
        reason = self.refused(self.client(ca=self.other.ca), self.server())
        self.assertIn("not signed by a trusted authority", reason)
        day = datetime.timedelta(days=1)
        expired = self.authority.issue("server.example", left=-day, file="expired")
        reason = self.refused(self.client(), self.server(expired))
        self.assertEqual(reason, "its certificate has expired")

    def test_names_that_are_malformed_or_of_other_kinds_are_ignored(self) -> None:
        service = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.7")
        for odd in (
            *map(
                x509.DNSName, ("a*b.example", "*.*.com", "*", "", " ", "a..b", "server.example\0")
            ),
            x509.OtherName(service, b"\x16\x07garbage"),
            x509.OtherName(service, b"\x04\x01a"),
            x509.UniformResourceIdentifier("no url"),
            x509.RFC822Name("nobody"),
        ):
            for names in ([odd, x509.DNSName("server.example")], [odd]):
                server = self.server(self.authority.issue_names(names))
                if len(names) > 1:
                    self.connect(self.client(), server)
                else:
                    reason = self.refused(self.client(), server)
                    self.assertEqual(reason, "its certificate is not for the name server.example")

    def test_names_that_cannot_be_read(self) -> None:
        # A DNS name that is not ASCII.
        names = x509.UnrecognizedExtension(
            x509.SubjectAlternativeName.oid, b"\x30\x04\x82\x02\xff\xfe"
        )
        server = self.server(self.authority.issue_names([], names))
        self.assertEqual(self.refused(self.client(), server), "its certificate has malformed names")

    def test_insecure_accepts_every_certificate(self) -> None:
        self.connect(self.client("any.example", ca=None, insecure=True), self.server())

    def test_malformed_host(self) -> None:
        self.assertRaises(ValueError, self.client, "a" * 70)

    def test_error_that_is_none_of_tls_has_no_reason(self) -> None:
        for error in (None, OSError("x"), SSL.Error(), SSL.SysCallError(-1, "Unexpected EOF")):
            self.assertIsNone(explain(error))


class MutualTests(OpenSSLCase):
    def setUp(self) -> None:
        super().setUp()
        self.mutual = self.server(client_ca=self.authority.ca)

    def test_certificate_of_the_client(self) -> None:
        cert, key = self.authority.issue("ann@example.org")
        there = self.connect(self.client(cert=cert, key=key), self.mutual)
        self.assertIsNotNone(there.get_peer_certificate())

    def test_without_or_with_another_one_there_is_no_connection(self) -> None:
        error = self.assertRaises(SSL.Error, self.connect, self.client(), self.mutual)
        self.assertNotIsInstance(error, Refused)
        cert, key = self.other.issue("eve@example.org")
        self.assertRaises(SSL.Error, self.connect, self.client(cert=cert, key=key), self.mutual)

    def test_key_without_its_certificate(self) -> None:
        error = self.assertRaises(CertificateError, self.client, key=self.pair.key)
        self.assertIn("needs its certificate", str(error))


class Counting(ClientTLS):
    """Counts the certificates that it verifies: none of a session that is resumed."""

    verified = 0

    def _verify(self, *arguments: object) -> bool:
        self.verified += 1
        return super()._verify(*arguments)  # type: ignore[arg-type]


class SessionTests(OpenSSLCase):
    def client(self, host: str = "server.example", **options: object) -> Counting:
        return Counting(TLSOptions(ca=self.authority.ca)._replace(**options), host)

    def test_sessions_are_resumed_also_with_a_certificate_of_the_client(self) -> None:
        cert, key = self.authority.issue("ann@example.org")
        server = self.server(client_ca=self.authority.ca)
        client = self.client(cert=cert, key=key)
        self.connect(client, server)
        full = client.verified
        self.assertGreater(full, 0)
        for _ in range(3):
            there = self.connect(client, server)
            self.assertEqual(client.verified, full)
            self.assertIsNotNone(there.get_peer_certificate())

    def test_new_context_resumes_nothing(self) -> None:
        server, client = self.server(), self.client()
        self.connect(client, server)
        full = client.verified
        server.prepare()()
        self.connect(client, server)
        self.assertEqual(client.verified, 2 * full)
        client.prepare()()
        self.connect(client, server)
        self.assertEqual(client.verified, 3 * full)


class ReloadTests(OpenSSLCase):
    def test_new_certificate_is_used_by_new_connections_only(self) -> None:
        server = self.server()
        early = server.serverConnectionForTLS(object())
        before = server.expires
        fresh = self.authority.issue("new.example", left=datetime.timedelta(days=9))
        for old, new in zip(self.pair, fresh, strict=True):
            os.replace(new, old)
        effect = server.prepare()
        self.refused(self.client("new.example"), server)
        effect()
        self.connect(self.client("new.example"), server)
        self.assertGreater(server.expires, before)
        here = self.client().clientConnectionForTLS(object())
        here.set_connect_state()
        early.set_accept_state()
        shake_hands(here, early)

    def test_error_changes_nothing(self) -> None:
        server, client = self.server(), self.client()
        os.replace(self.authority.issue("new.example").key, self.pair.key)
        error = self.assertRaises(CertificateError, server.prepare)
        self.assertEqual(
            str(error), f"{self.pair.key}: not the private key of the certificate {self.pair.cert}"
        )
        self.connect(client, server)
        os.unlink(self.authority.ca)
        self.assertRaises(CertificateError, client.prepare)
        self.connect(client, server)


class ProtocolTests(OpenSSLCase):
    def test_older_versions_are_refused_by_both_ends(self) -> None:
        old = SSL.Context(SSL.TLS_METHOD)
        old.set_max_proto_version(SSL.TLS1_1_VERSION)
        old.set_min_proto_version(SSL.TLS1_VERSION)
        old.set_cipher_list(b"ALL:@SECLEVEL=0")
        cert, key = self.pair
        old.use_certificate_file(cert)
        old.use_privatekey_file(key)
        server = self.server().serverConnectionForTLS(object())
        client = SSL.Connection(old, None)
        client.set_connect_state()
        server.set_accept_state()
        self.assertRaises(SSL.Error, shake_hands, client, server)
        client = self.client().clientConnectionForTLS(object())
        server = SSL.Connection(old, None)
        client.set_connect_state()
        server.set_accept_state()
        self.assertRaises(SSL.Error, shake_hands, client, server)

    def test_tls_1_2_resumes_and_does_not_renegotiate(self) -> None:
        server = self.server()
        client = Counting(TLSOptions(ca=self.authority.ca), "server.example")
        counts = []
        for _ in range(2):
            here = client.clientConnectionForTLS(object())
            there = server.serverConnectionForTLS(object())
            here.set_options(SSL.OP_NO_TLSv1_3)
            here.set_connect_state()
            there.set_accept_state()
            shake_hands(here, there)
            self.assertEqual(there.get_protocol_version_name(), "TLSv1.2")
            self.assertRaises(SSL.Error, here.renegotiate)
            counts.append(client.verified)
        self.assertEqual(counts[0], counts[1])
