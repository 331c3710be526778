"""The blocking client over TLS: against servers in threads, with right and wrong certificates."""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
import ssl
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from natproxy.address import Address
from natproxy.client import (
    CannotConnect,
    ClientError,
    ConnectionBroken,
    Interrupted,
    Session,
    TLSError,
    TLSOptions,
    UsageError,
    connect,
)
from natproxy.client.requests import Get
from tests.support.answering_server import AnsweringServer, Version2
from tests.support.certificates import Authority, Files
from tests.support.secure import SecureServer, server_context

CONTENT = os.urandom(1 << 20)
FILES = {b"a": b"the a", b"large": CONTENT}
HOST = "127.0.0.1"


class SecureCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir(parents=True)
        self.authority = Authority(self.directory)
        self.other = Authority(self.directory, "other")
        self.pair = self.authority.issue("localhost", HOST)
        self.trusting = TLSOptions(self.authority.ca)

    def serve(
        self,
        files: Files | None = None,
        client_ca: str | None = None,
        reply: Callable[[bytes], bytes] | None = None,
        change: Callable[[ssl.SSLContext], object] = lambda context: None,
    ) -> SecureServer:
        context = server_context(files or self.pair, client_ca)
        change(context)
        server = SecureServer(reply or Version2(FILES), context)
        self.addCleanup(server.close)
        return server

    def session(
        self, port: int, tls: TLSOptions | None = None, host: str = HOST, timeout: float = 10.0
    ) -> Session:
        session = Session(Address(host, port), timeout, tls=tls or self.trusting)
        self.addCleanup(session.close)
        return session

    def refused(self, session: Session) -> str:
        """Return the reason of a session's server; it is permanent, and one line."""
        error = self.assertRaises(TLSError, session.read, "a")
        self.assertFalse(error.passing)
        text = str(error)
        self.assertEqual(text.splitlines(), [text])
        start = f"cannot connect to {session.server}: "
        self.assertTrue(text.startswith(start), text)
        return text.removeprefix(start)


class CommandTests(SecureCase):
    def test_commands_by_name_and_by_address(self) -> None:
        server = self.serve()
        for host in ("localhost", HOST):
            with connect(f"natproxys://{host}:{server.port}", 10.0, tls=self.trusting) as session:
                self.assertEqual(session.read("a"), b"the a")
                self.assertEqual(session.read("large"), CONTENT)
                self.assertEqual([entry.name for entry in session.ls()], [b"a", b"large"])
                self.assertEqual([record.data for record in session.pack(["a"])], [b"the a"])

    def test_large_file_is_received_into_memory(self) -> None:
        session = self.session(self.serve().port)
        buffer = memoryview(bytearray(len(CONTENT)))
        with session.get("large") as (reply, part):
            filled = 0
            while size := reply.receive_into(buffer[filled : filled + 100_001]):
                filled += size
        self.assertEqual((part.length, bytes(buffer)), (len(CONTENT), CONTENT))

    def test_download_in_segments(self) -> None:
        server = self.serve()
        session = self.session(server.port)
        target = os.path.join(self.directory, "large")
        session.download("large", target, segments=4, verify=True)
        self.assertEqual(Path(target).read_bytes(), CONTENT)

    def test_pipeline(self) -> None:
        session = self.session(self.serve().port)
        names = ["a", "large"] * 20
        results = [result for _, result in session.pipeline(map(Get, names), ahead=40)]
        self.assertEqual(results, [b"the a", CONTENT] * 20)

    def test_commands_that_the_kernel_does_not_take_at_once(self) -> None:
        # Long commands beside long replies: each side has to read to be able to write.
        name = b"x" * 4000
        session = self.session(self.serve(reply=Version2({name: CONTENT[:60_000]})).port)
        session.read(name)
        with session.connection() as connection:
            assert connection._socket is not None
            connection._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        results = [result for _, result in session.pipeline([Get(name) for _ in range(300)], 300)]
        self.assertEqual(results, [CONTENT[:60_000]] * 300)

    def test_without_tls_nothing_of_it_is_used(self) -> None:
        server = AnsweringServer(Version2(FILES))
        self.addCleanup(server.close)
        with connect(f"natproxy://{HOST}:{server.port}", 10.0) as session:
            self.assertIsNone(session.tls)
            self.assertEqual(session.read("a"), b"the a")


class ResumptionTests(SecureCase):
    def sessions(self, change: Callable[[ssl.SSLContext], object], mutual: bool = False) -> None:
        server = self.serve(client_ca=self.authority.ca if mutual else None, change=change)
        cert, key = self.authority.issue("ann@example.org")
        tls = self.trusting._replace(cert=cert, key=key) if mutual else None
        session = self.session(server.port, tls)
        self.assertEqual(session.read("a"), b"the a")
        # A full handshake costs more than a command: only the first connection has one.
        # In TLS 1.3 the server's handshake ends after the client's: only a reply shows its end.
        with session.get("a") as (first, _), session.get("a") as (second, _):
            self.assertEqual((first.read(), second.read()), (b"the a", b"the a"))
        session.close()
        self.assertEqual(session.read("a"), b"the a")
        self.assertEqual(server.resumed, [False, True, True])

    def test_tls_1_3(self) -> None:
        self.sessions(lambda context: None)

    def test_tls_1_2(self) -> None:
        def change(context: ssl.SSLContext) -> None:
            context.maximum_version = ssl.TLSVersion.TLSv1_2

        self.sessions(change)

    def test_with_a_certificate_of_the_client(self) -> None:
        self.sessions(lambda context: None, mutual=True)

    def test_server_that_forgets_its_sessions(self) -> None:
        server = self.serve()
        session = self.session(server.port)
        session.read("a")
        session.close()
        server._context = server_context(self.pair)
        self.assertEqual(session.read("a"), b"the a")
        self.assertEqual(server.resumed, [False, False])


class RefusalTests(SecureCase):
    def test_authority(self) -> None:
        server = self.serve()
        for tls in (TLSOptions(self.other.ca), TLSOptions()):
            reason = self.refused(self.session(server.port, tls))
            self.assertIn("not signed by a trusted authority", reason)

    def test_expired_and_not_valid_yet(self) -> None:
        day = datetime.timedelta(days=1)
        expired = self.authority.issue("localhost", HOST, left=-day, file="expired")
        reason = self.refused(self.session(self.serve(expired).port))
        self.assertEqual(reason, "its certificate has expired")

    def test_name(self) -> None:
        pair = self.authority.issue("other.example")
        for host in ("localhost", HOST):
            reason = self.refused(self.session(self.serve(pair).port, host=host))
            self.assertEqual(reason, f"its certificate is not for the name {host}")

    def test_insecure_accepts_all_of_that(self) -> None:
        day = datetime.timedelta(days=1)
        pair = self.other.issue("other.example", left=-day)
        session = self.session(self.serve(pair).port, TLSOptions(insecure=True))
        self.assertEqual(session.read("a"), b"the a")

    def test_protocol_too_old(self) -> None:
        def change(context: ssl.SSLContext) -> None:
            context.set_ciphers("ALL:@SECLEVEL=0")
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = ssl.TLSVersion.TLSv1_1

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            server = self.serve(change=change)
        self.assertEqual(
            self.refused(self.session(server.port)), "it does not offer TLS 1.2 or newer"
        )

    def test_server_without_tls(self) -> None:
        server = AnsweringServer(lambda line: b"ERR unknown command\n")
        self.addCleanup(server.close)
        self.assertEqual(self.refused(self.session(server.port)), "it does not speak TLS")


class ClientCertificateTests(SecureCase):
    def setUp(self) -> None:
        super().setUp()
        self.ann = self.authority.issue("ann@example.org")

    def showing(self, files: Files) -> TLSOptions:
        return TLSOptions(self.authority.ca, files.cert, files.key)

    def test_mutual(self) -> None:
        server = self.serve(client_ca=self.authority.ca)
        self.assertEqual(self.session(server.port, self.showing(self.ann)).read("a"), b"the a")

    def test_certificate_and_key_in_one_file(self) -> None:
        both = self.directory / "both.pem"
        both.write_bytes(Path(self.ann.cert).read_bytes() + Path(self.ann.key).read_bytes())
        server = self.serve(client_ca=self.authority.ca)
        session = self.session(server.port, TLSOptions(self.authority.ca, str(both)))
        self.assertEqual(session.read("a"), b"the a")

    def test_missing_or_refused_certificate_in_both_versions(self) -> None:
        day = datetime.timedelta(days=1)
        expired = self.authority.issue("bob@example.org", left=-day)
        stranger = self.other.issue("eve@example.org")
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):

            def change(context: ssl.SSLContext, version: ssl.TLSVersion = version) -> None:
                context.maximum_version = version

            server = self.serve(client_ca=self.authority.ca, change=change)
            for tls, expected in (
                (self.trusting, "it requires a client certificate"),
                (self.showing(expired), "it refused the client certificate, which has expired"),
                (
                    self.showing(stranger),
                    "it does not trust the authority of the client certificate",
                ),
            ):
                reason = self.refused(self.session(server.port, tls))
                self.assertTrue(reason.startswith(expected), (version, reason))
                asked = tls is self.trusting
                self.assertIs(reason.endswith(" (options cert and key)"), asked, reason)

    def test_wrong_files_are_found_before_a_connection_is_made(self) -> None:
        cert, key = self.ann
        missing = str(self.directory / "missing.pem")
        for tls, text in (
            (TLSOptions(missing), f"{missing}: No such file or directory"),
            (TLSOptions(cert=missing, key=key), f"{missing}: No such file or directory"),
            (
                TLSOptions(cert=key, key=cert),
                f"{key} is a private key, and {cert} a certificate: they are swapped",
            ),
            (
                TLSOptions(cert=cert, key=self.pair.key),
                f"{self.pair.key}: not the private key of the certificate {cert}",
            ),
            (TLSOptions(key=key), f"{key}: a key needs its certificate (option cert)"),
        ):
            error = self.assertRaises(UsageError, self.session, 1, tls)
            self.assertEqual(str(error), text)


class FaultTests(SecureCase):
    """Servers that do not complete a handshake, or break off."""

    def listen(self, serve: Callable[[socket.socket], object]) -> int:
        listener = socket.create_server((HOST, 0))
        self.addCleanup(listener.close)

        def accept() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    serve(connection)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        self.addCleanup(thread.join, 10)
        port: int = listener.getsockname()[1]
        return port

    def failure(self, port: int, timeout: float = 10.0) -> ClientError:
        session = self.session(port, timeout=timeout)
        error = self.assertRaises(CannotConnect, session.connect)
        self.assertTrue(error.passing)
        return error

    def test_silent_server(self) -> None:
        port = self.listen(lambda connection: connection.recv(1 << 16) and connection.recv(1))
        error = self.failure(port, timeout=0.5)
        self.assertEqual(
            str(error), f"cannot connect to {HOST}:{port}: no reply to the TLS handshake in time"
        )

    def test_server_that_drips(self) -> None:
        ended = threading.Event()
        self.addCleanup(ended.set)

        def drip(connection: socket.socket) -> None:
            for byte in b"\x16\x03\x03\x40\x00" + bytes(1000):
                if ended.wait(0.01):
                    return
                connection.send(bytes([byte]))

        error = self.failure(self.listen(drip), timeout=0.5)
        self.assertIn("no reply to the TLS handshake in time", str(error))

    def test_server_that_closes_in_the_handshake(self) -> None:
        port = self.listen(lambda connection: connection.recv(1 << 16))
        self.assertIn(
            "the server closed the connection in the TLS handshake", str(self.failure(port))
        )

    def test_connection_that_is_cut_off_inside_a_body(self) -> None:
        def serve(connection: socket.socket) -> None:
            with server_context(self.pair).wrap_socket(connection, server_side=True) as secured:
                secured.recv(1 << 16)
                whole = Version2(FILES)(b"DOWNLOAD large")
                secured.sendall(whole[: len(whole) // 2])

        session = self.session(self.listen(serve))
        with session.get_v1("large") as body:
            error = self.assertRaises(ConnectionBroken, body.read)
        self.assertIn("closed the connection inside the reply", str(error))

    def test_damaged_record_is_no_part_of_a_reply(self) -> None:
        def serve(connection: socket.socket) -> None:
            secured = server_context(self.pair).wrap_socket(connection, server_side=True)
            secured.recv(1 << 16)
            secured.sendall(b"OK 100000\n")
            with socket.socket(fileno=secured.detach()) as plain:
                plain.sendall(b"\x17\x03\x03\x40\x00" + bytes(1 << 14))

        session = self.session(self.listen(serve))
        with session.get_v1("large") as body:
            error = self.assertRaises(ConnectionBroken, body.read)
        self.assertIn("TLS has failed", str(error))

    def test_handshake_is_interrupted(self) -> None:
        received, ended = threading.Event(), threading.Event()

        def serve(connection: socket.socket) -> None:
            connection.recv(1 << 16)
            received.set()
            ended.wait(10)

        session = self.session(self.listen(serve))
        self.addCleanup(ended.set)
        failures: list[BaseException] = []

        def connect() -> None:
            try:
                session.connect()
            except ClientError as error:
                failures.append(error)

        thread = threading.Thread(target=connect)
        thread.start()
        self.assertTrue(received.wait(10))
        session.interrupt()
        thread.join(10)
        self.assertEqual([type(failure) for failure in failures], [Interrupted])

    def test_handshake_that_is_interrupted_is_not_continued(self) -> None:
        server = self.serve()
        session = self.session(server.port)
        handshake = ssl.SSLSocket.do_handshake

        def interrupted(secured: ssl.SSLSocket, block: bool = False) -> None:
            # The server's thread may call it meanwhile.
            if not secured.server_side:
                raise KeyboardInterrupt
            handshake(secured, block)

        with (
            mock.patch("ssl.SSLSocket.do_handshake", interrupted),
            self.assertRaises(KeyboardInterrupt),
        ):
            session.read("a")
        self.assertEqual(server.versions, [])
        self.assertEqual(session.read("a"), b"the a")
        self.assertEqual(len(server.versions), 1)

    def test_wait_for_a_reply_is_interrupted(self) -> None:
        session = self.session(self.serve(reply=lambda line: self.hold(line)).port)
        self.held, self.released = threading.Event(), threading.Event()
        self.addCleanup(self.released.set)
        failures: list[BaseException] = []

        def read() -> None:
            try:
                session.read("a")
            except ClientError as error:
                failures.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        self.assertTrue(self.held.wait(10))
        session.interrupt()
        thread.join(10)
        self.assertEqual([type(failure) for failure in failures], [Interrupted])

    def hold(self, _: bytes) -> bytes:
        self.held.set()
        self.released.wait(10)
        return b""
