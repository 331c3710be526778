"""What cannot be served as objects, in one line each; what is checked before a daemon starts."""

from __future__ import annotations

import os
import shutil
import tempfile
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from natproxy.daemon import objects
from natproxy.daemon.config_report import check_config
from natproxy.daemon.fileserver import open_directory
from natproxy.daemon.fileserver_config import FileServerConfig
from natproxy.daemon.parts import prepare_hiding
from natproxy.settings import SettingError
from natproxy.storage import NotFound, ObjectStorage
from natproxy.storage.objects.client import StoreError
from natproxy.storage.objects.location import Location
from natproxy.storage.objects.s3 import MissingLibrary
from tests.support.objects import PlayedStore


class OpenObjectsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.store = PlayedStore()
        self.locations: list[Location] = []
        self.directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.directory)
        self.file = os.path.join(self.directory, "settings.toml")

        def client(location: Location) -> PlayedStore:
            self.locations.append(location)
            return self.store

        self.patch(objects, "S3Client", client)

    def config(self, **options: object) -> FileServerConfig:
        return FileServerConfig.load(options, environment={}, directory=self.directory)

    def error(self, **options: object) -> str:
        with self.assertRaises(SettingError) as raised:
            open_directory(self.config(**options))
        return str(raised.exception)

    def test_objects_are_served(self) -> None:
        self.store.put("p/a", b"content")
        self.store.put("p/.key", b"secret")
        self.store.by_name = True
        endpoint = "http://127.0.0.1:1"
        config = self.config(files="s3://b/p", **{"s3-endpoint": endpoint, "hide": [".key"]})
        served = open_directory(config)
        storage = served.directory
        assert isinstance(storage, ObjectStorage)
        # A daemon may fork after the first one was used.
        self.assertEqual(self.locations, [Location("b", "p/", endpoint)] * 2)
        self.assertEqual((served.title, served.created), ("s3://b/p", False))
        self.assertTrue(storage.blocking)
        self.assertIsNone(storage.cache)
        prepare_hiding(storage, config)()
        self.assertRaises(NotFound, storage.open, b".key")
        prepare_hiding(storage, self.config())()
        self.assertEqual(storage.metadata(b".key").size, 6)
        served.remove_created()

    def test_cache(self) -> None:
        config = self.config(files="s3://b", cache="blocks", **{"cache-size": "1G"})
        storage = open_directory(config).directory
        assert isinstance(storage, ObjectStorage)
        assert storage.cache is not None
        self.assertEqual(storage.cache.limit, 1 << 30)
        self.assertTrue(os.path.isdir(os.path.join(self.directory, "blocks")))
        with open(os.path.join(self.directory, "file"), "w"):
            pass
        self.assertEqual(self.error(files="s3://b", cache="file"), "--cache file: not a directory")
        self.assertEqual(
            self.error(files="s3://b", cache="file/blocks"), "--cache file/blocks: not a directory"
        )

    def test_settings_of_objects_beside_a_directory(self) -> None:
        for option, value in (("cache", "blocks"), ("s3-endpoint", "http://127.0.0.1:1")):
            message = self.error(files=self.directory, **{option: value})
            self.assertEqual(
                message,
                f"--{option} {value}: only for an object store; --files s3://BUCKET/PREFIX names"
                " one",
            )

    def test_etags_are_those_of_the_store(self) -> None:
        self.store.put("a", b"content")
        with open(self.file, "w") as file:
            file.write('[fileserver]\nfiles = "s3://b"\netag = "content"\n')
        reason = (
            " content: only for a directory; objects have the etags of their store, in which all"
            " its file servers agree"
        )
        self.assertEqual(self.error(files="s3://b", etag="content"), f"--etag{reason}")
        checked = check_config(
            None, "fileserver", {"NATPROXY_FILESERVER_LISTEN": "systemd:"}, self.file
        )
        self.assertEqual(checked, [f"{self.file}: fileserver.etag{reason}"])
        open_directory(self.config(files="s3://b", etag="file"))

    def test_what_cannot_be_served(self) -> None:
        self.assertEqual(
            self.error(files="s3://b/misspelt"),
            "--files s3://b/misspelt: there is no object below this prefix; check its spelling",
        )
        self.assertIn("--files s3://: must be s3://BUCKET", self.error(files="s3://"))
        self.store.error = StoreError("no such bucket: b")
        self.assertEqual(self.error(files="s3://b"), "--files s3://b: no such bucket: b")
        with mock.patch.object(objects, "S3Client", side_effect=MissingLibrary):
            error = self.error(files="s3://b")
        expected = "--files s3://b: S3 needs botocore: pip install 'natproxy[s3]'"
        self.assertEqual(error, expected)

    def test_endpoint_without_a_password(self) -> None:
        with self.assertRaisesRegex(SettingError, "must not contain a user or a password"):
            self.config(**{"s3-endpoint": "http://key:word@a"})
