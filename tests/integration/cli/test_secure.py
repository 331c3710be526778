"""TLS on the command line: its options, settings and errors."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

from natproxy.cli.candidates import ManyNames
from natproxy.tls.options import TLSOptions
from tests.support.answering_server import AnsweringServer, Version2
from tests.support.certificates import Authority
from tests.support.commands import FILES, NAMES, CommandCase
from tests.support.secure import SecureServer, server_context


class SecureCommandCase(CommandCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir(parents=True)
        self.authority = Authority(self.directory)
        self.ann = self.authority.issue("ann@example.org")
        self.pair = self.authority.issue("localhost", "127.0.0.1")
        self.secure = self.start()
        self.url = f"natproxys://localhost:{self.secure.port}"
        environment = mock.patch.dict(os.environ, {"XDG_CONFIG_HOME": "/nowhere"})
        environment.start()
        self.addCleanup(environment.stop)

    def start(self, client_ca: str | None = None) -> SecureServer:
        server = SecureServer(Version2(dict(FILES)), server_context(self.pair, client_ca))
        self.addCleanup(server.close)
        return server


class OptionTests(SecureCommandCase):
    def test_url_or_option(self) -> None:
        ca = ("--ca", self.authority.ca)
        place = f"localhost:{self.secure.port}"
        for arguments in (
            ("list", "--server", self.url, *ca),
            ("list", "--tls", "--server", place, *ca),
            ("--tls", *ca, "list", "--server", f"natproxy://{place}"),
        ):
            self.assertEqual(self.written(*arguments), NAMES, arguments)
        self.assertEqual(self.written("cat", f"{self.url}/a.txt", *ca), b"the a")

    def test_variables(self) -> None:
        settings = {"NATPROXY_CA": self.authority.ca, "NATPROXY_SERVER": self.url}
        with mock.patch.dict(os.environ, settings):
            self.assertEqual(self.written("list"), NAMES)
            self.assertEqual(self.written("cat", f"{self.url}/a.txt"), b"the a")

    def test_configuration_file(self) -> None:
        mutual = self.start(self.authority.ca)
        cert, key = self.ann
        path = self.directory / "config.toml"
        path.write_text(
            f'server = "localhost:{mutual.port}"\ntls = true\nca = "{self.authority.ca}"\n'
            f'cert = "{cert}"\nkey = "{key}"\n'
        )
        with mock.patch.dict(os.environ, NATPROXY_CONFIG=str(path)):
            self.assertEqual(self.written("list"), NAMES)

    def test_insecure_prints_a_warning_each_time(self) -> None:
        for _ in range(2):
            status, out, err = self.main("list", "--server", self.url, "--insecure")
            self.assertEqual((status, out), (0, NAMES))
            self.assertEqual(
                err,
                f"natproxy: localhost:{self.secure.port}: the certificate is not checked"
                " (--insecure): anyone in between can read and change everything\n",
            )

    def test_lines_at_the_prompt(self) -> None:
        with mock.patch("sys.stdin.readline", mock.Mock(side_effect=["list\n", "list\n", ""])):
            status, out, err = self.main("shell", "--server", self.url, "--ca", self.authority.ca)
        self.assertEqual((status, out, err), (0, 2 * NAMES, ""))


class ErrorTests(SecureCommandCase):
    def failure(self, *arguments: str) -> tuple[int, str]:
        """Return status and error of a command line; the error is one line."""
        status, out, err = self.main(*arguments)
        self.assertEqual((out, err.count("\n")), (b"", 1), err)
        return status, err.removeprefix("natproxy: ").rstrip("\n")

    def test_option_without_tls_is_refused(self) -> None:
        plain = self.serve()
        for option, values in (
            ("--ca", (self.authority.ca,)),
            ("--cert", (self.ann.cert,)),
            ("--key", (self.ann.key,)),
            ("--insecure", ()),
        ):
            status, error = self.failure("list", "--server", plain, option, *values)
            self.assertEqual(
                (status, error), (2, f"{option} needs TLS: specify --tls, or write natproxys://")
            )
        self.assertEqual(self.server.lines, [])
        # As a setting, it is for the servers that need it.
        with mock.patch.dict(os.environ, NATPROXY_CA=self.authority.ca):
            self.assertEqual(self.written("list", "--server", plain), NAMES)

    def test_each_failure_is_one_line(self) -> None:
        mutual = self.start(self.authority.ca)
        place = f"localhost:{self.secure.port}"
        plain = AnsweringServer(lambda line: b"ERR unknown command\n")
        self.addCleanup(plain.close)
        ca = ("--ca", self.authority.ca)
        missing = str(self.directory / "missing.pem")
        for arguments, status, text in (
            (
                (self.url,),
                4,
                f"cannot connect to {place}: its certificate is not signed by a trusted authority"
                " (option ca)",
            ),
            (
                (f"natproxys://localhost:{mutual.port}", *ca),
                4,
                f"cannot connect to localhost:{mutual.port}: it requires a client certificate"
                " (options cert and key)",
            ),
            (
                (f"natproxys://{plain.server_address}", *ca),
                4,
                f"cannot connect to {plain.server_address}: it does not speak TLS",
            ),
            ((self.url, "--ca", missing), 2, f"{missing}: No such file or directory"),
            (
                (self.url, "--cert", self.ann.key, "--key", self.ann.cert),
                2,
                f"{self.ann.key} is a private key, and {self.ann.cert} a certificate:"
                " they are swapped",
            ),
        ):
            with self.subTest(text=text):
                found = self.failure("list", "--wait", "--retry-for", "1m", "--server", *arguments)
                self.assertEqual(found, (status, text))


class CompletionTests(SecureCommandCase):
    def test_names_on_servers_with_tls(self) -> None:
        names = ManyNames(5.0, options=TLSOptions(self.authority.ca))
        self.addCleanup(names.close)
        found = list(names.starting_with(f"{self.url}/a", "nowhere:1"))
        self.assertEqual(found, [f"{self.url}/a.txt".encode()])
        every = ManyNames(5.0, tls=True, options=TLSOptions(self.authority.ca))
        self.addCleanup(every.close)
        found = list(every.starting_with("a", f"localhost:{self.secure.port}"))
        self.assertEqual(found, [b"a.txt"])
        broken = ManyNames(5.0, options=TLSOptions("/nowhere"))
        self.assertEqual(list(broken.starting_with(f"{self.url}/a", "nowhere:1")), [])
