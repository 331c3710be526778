"""``natproxys://`` for fsspec and universal_pathlib."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from unittest import mock

import fsspec
from fsspec.core import url_to_fs
from twisted.trial.unittest import SynchronousTestCase
from upath import UPath

from natproxy.client import TLSError
from natproxy.fs import NatproxyFileSystem, SecureNatproxyFileSystem
from natproxy.tls.options import TLSOptions
from tests.support.answering_server import Version2
from tests.support.certificates import Authority
from tests.support.secure import SecureServer, server_context


class SecureFileSystemTests(SynchronousTestCase):
    def setUp(self) -> None:
        directory = Path(self.mktemp())
        directory.mkdir(parents=True)
        self.authority = Authority(directory)
        self.cert, self.key = self.authority.issue("ann@example.org")
        context = server_context(self.authority.issue("localhost"), self.authority.ca)
        self.server = SecureServer(Version2({b"a": b"the a", b"b": b"the b"}), context)
        self.addCleanup(self.server.close)
        self.options = {"ca": self.authority.ca, "cert": self.cert, "key": self.key}
        self.url = f"natproxys://localhost:{self.server.port}"

    def test_open_by_url(self) -> None:
        with fsspec.open(f"{self.url}/a", **self.options) as file:
            self.assertEqual(file.read(), b"the a")

    def test_file_system_of_a_url(self) -> None:
        files, path = url_to_fs(f"{self.url}/a", **self.options)
        self.addCleanup(files.close)
        self.assertIsInstance(files, SecureNatproxyFileSystem)
        self.assertEqual(path, "/a")
        self.assertEqual(files.unstrip_protocol(path), f"{self.url}/a")
        self.assertEqual(files.fsid, self.url)
        self.assertEqual(files.cat(["/a", "/b"]), {"/a": b"the a", "/b": b"the b"})
        self.assertEqual(files.ls("/", detail=False), ["/a", "/b"])
        again = pickle.loads(pickle.dumps(files))
        self.assertEqual(again.cat_file("/a"), b"the a")

    def test_tls_as_an_option(self) -> None:
        files = NatproxyFileSystem("localhost", self.server.port, tls=True, **self.options)
        self.addCleanup(files.close)
        self.assertEqual(files.cat_file("/a"), b"the a")

    def test_path(self) -> None:
        path = UPath(f"{self.url}/a", **self.options)
        self.addCleanup(path.fs.close)
        self.assertEqual(path.read_bytes(), b"the a")
        self.assertEqual(str(path), f"{self.url}/a")

    def test_refusal_is_a_connection_error(self) -> None:
        files = SecureNatproxyFileSystem("localhost", self.server.port, ca=self.authority.ca)
        self.addCleanup(files.close)
        error = self.assertRaises(ConnectionError, files.cat_file, "/a")
        self.assertIsInstance(error.__cause__, TLSError)

    def test_server_of_the_environment(self) -> None:
        with mock.patch.dict(os.environ, NATPROXY_SERVER=self.url):
            files = NatproxyFileSystem(**self.options)
            self.addCleanup(files.close)
            self.assertEqual(files.cat_file("/a"), b"the a")


class OptionTests(SynchronousTestCase):
    def test_default_ports(self) -> None:
        for kind, options, port in (
            (NatproxyFileSystem, {}, 9000),
            (NatproxyFileSystem, {"tls": True}, 9443),
            (SecureNatproxyFileSystem, {}, 9443),
            (SecureNatproxyFileSystem, {"port": 1}, 1),
        ):
            self.assertEqual(kind("h", **options).server.port, port)
        self.assertEqual(
            SecureNatproxyFileSystem._get_kwargs_from_urls("natproxys://h/a"),
            {"host": "h", "port": 9443},
        )

    def test_scheme_with_tls_cannot_be_without(self) -> None:
        files = SecureNatproxyFileSystem("h", tls=False)
        self.assertEqual(files.session.tls, TLSOptions())

    def test_options_of_tls_need_it(self) -> None:
        for option in ({"ca": "x"}, {"cert": "x"}, {"key": "x"}, {"insecure": True}):
            error = self.assertRaises(ValueError, NatproxyFileSystem, "h", **option)
            self.assertIn("natproxys:// or tls=True", str(error))

    def test_wrong_file_is_a_value_error(self) -> None:
        error = self.assertRaises(ValueError, SecureNatproxyFileSystem, "h", ca="/nowhere")
        self.assertEqual(str(error), "/nowhere: No such file or directory")
