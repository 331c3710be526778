"""Endpoint strings with TLS, and the certificates of a daemon."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint, quoteStringArgument
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogLevel, globalLogPublisher

from natproxy.daemon.certificates import (
    listening_tls,
    split_description,
    upstream_tls,
)
from natproxy.daemon.endpoints import listening_endpoints, upstream_targets
from natproxy.daemon.listening import ListeningEndpoint
from natproxy.daemon.parts import prepare_certificates
from natproxy.server.proxy_header import HeaderFactory
from natproxy.server.secure import SecureFactory
from natproxy.settings import SettingError
from natproxy.tls.files import CertificateError
from tests.support.certificates import Authority
from tests.support.daemons import OptionsCase

HOUR = 3600.0


class CertificatesCase(OptionsCase):
    def setUp(self) -> None:
        super().setUp()
        directory = Path(self.directory)
        self.authority = Authority(directory)
        self.cert, self.key = self.authority.issue("server.example")
        self.memory: Any = MemoryReactorClock()

    def described(self, *options: str) -> str:
        return ":".join(["ssl:9443", f"privateKey={self.key}", f"certKey={self.cert}", *options])


class DescriptionTests(CertificatesCase):
    def test_escapes(self) -> None:
        path = "a:b\\c=d"
        found = split_description(f"ssl:1:privateKey={quoteStringArgument(path)}:port=2")
        self.assertEqual(found, (["1"], {"privateKey": path, "port": "2"}))
        self.assertEqual(split_description(r"tls:\:\:1:80"), (["::1", "80"], {}))
        self.assertEqual(split_description("tls:a=b"), ([], {"a": "b"}))
        self.assertRaises(ValueError, split_description, "ssl:1:privateKey=\\")

    def test_listening(self) -> None:
        endpoint, tls = listening_tls(self.memory, self.described())
        self.assertIsInstance(endpoint, TCP4ServerEndpoint)
        self.assertEqual((tls.files.cert, tls.files.key), (self.cert, self.key))
        self.assertIsNone(tls.files.client_ca)
        endpoint, tls = listening_tls(
            self.memory, self.described(r"interface=\:\:1", f"clientCA={self.authority.ca}")
        )
        self.assertIsInstance(endpoint, TCP6ServerEndpoint)
        self.assertEqual(tls.files.client_ca, self.authority.ca)

    def test_relative_paths_are_those_of_the_start(self) -> None:
        working = os.getcwd()
        self.addCleanup(os.chdir, working)
        os.chdir(self.directory)
        _, tls = listening_tls(
            self.memory,
            "ssl:1:privateKey=server.example.key.pem:certKey=server.example.cert.pem",
        )
        os.chdir("/")
        tls.prepare()()

    def test_malformed(self) -> None:
        for description, reason in (
            ("ssl:1", "privateKey=FILE is missing"),
            ("ssl:privateKey=a", "ssl:PORT:"),
            (f"ssl:70000:privateKey={self.key}", "there is no port 70000"),
            (self.described("sslmethod=SSLv23_METHOD"), "TLS 1.2 and newer are used"),
            (self.described("clientca=x"), "unknown option clientca; known are port, "),
        ):
            error = self.assertRaises(ValueError, listening_tls, self.memory, description)
            self.assertIn(reason, str(error))
        for description, reason in (
            ("tls:h", "tls:HOST:PORT is needed"),
            ("tls:h:x", "there is no port x"),
            ("tls:h:1:roots=x", "unknown option roots"),
        ):
            error = self.assertRaises(ValueError, upstream_tls, self.memory, description)
            self.assertIn(reason, str(error))

    def test_upstream_has_the_names_of_both_endpoints_of_twisted(self) -> None:
        ca = self.authority.ca
        for kind, cert, trust in (
            ("tls", "certificate", "trustRoots"),
            ("ssl", "certKey", "caCertsDir"),
        ):
            description = f"{kind}:server.example:1:{cert}={self.cert}:privateKey={self.key}"
            upstream_tls(self.memory, f"{description}:{trust}={ca}")
            for option in (cert, "privateKey", trust):
                self.assertRaises(
                    CertificateError, upstream_tls, self.memory, f"{description}:{option}=/nowhere"
                )


class SettingTests(CertificatesCase):
    def test_header_is_before_tls(self) -> None:
        endpoint = ListeningEndpoint(self.memory, f"haproxy:{self.described()}")
        wrapped = endpoint.wrap(object())  # type: ignore[arg-type]
        self.assertIsInstance(wrapped, HeaderFactory)
        self.assertIsInstance(wrapped.wrappedFactory, SecureFactory)

    def test_errors_name_the_setting_and_the_file(self) -> None:
        missing = f"{self.directory}/missing.pem"
        config = self.proxy_config(
            "--listen", f"ssl:1:privateKey={missing}", "--upstream", f"tls:h:1:trustRoots={missing}"
        )
        for parse, option in ((listening_endpoints, "listen"), (upstream_targets, "upstream")):
            text = str(self.assertRaises(SettingError, parse, self.memory, config))
            self.assertTrue(text.startswith(f"--{option} "), text)
            self.assertTrue(text.endswith(f": {missing}: No such file or directory"), text)


class PartTests(CertificatesCase):
    def prepare(self, endpoint: ListeningEndpoint, now: float) -> list[Any]:
        config = self.proxy_config()
        events: list[Any] = []
        effect = prepare_certificates([endpoint], lambda: now, config)
        globalLogPublisher.addObserver(events.append)
        try:
            effect()
        finally:
            globalLogPublisher.removeObserver(events.append)
        return events

    def test_time_of_expiry_is_logged_with_a_warning_if_it_is_near(self) -> None:
        endpoint = ListeningEndpoint(self.memory, self.described())
        assert endpoint.tls is not None
        end = endpoint.tls.expires.timestamp()
        for before, level, text in (
            (15 * 24 * HOUR, LogLevel.info, " UTC"),
            (36 * HOUR, LogLevel.warn, "it expires in 1.5 days"),
            (0.0, LogLevel.warn, "has expired on"),
        ):
            (event,) = self.prepare(endpoint, end - before)
            self.assertIs(event["log_level"], level)
            self.assertIn(self.cert, event["line"])
            self.assertIn(text, event["line"])

    def test_wrong_file_is_an_error_and_changes_nothing(self) -> None:
        endpoint = ListeningEndpoint(self.memory, self.described())
        assert endpoint.tls is not None
        before = endpoint.tls.expires
        Path(self.key).write_text("nothing")
        text = str(self.assertRaises(SettingError, self.prepare, endpoint, 0.0))
        self.assertEqual(
            text, f"{endpoint.description}: {self.key}: contains no private key in PEM form"
        )
        self.assertEqual(endpoint.tls.expires, before)

    def test_endpoint_without_tls_has_nothing_to_read(self) -> None:
        self.assertEqual(self.prepare(ListeningEndpoint(self.memory, "tcp:1"), 0.0), [])
