"""What the file server is made of, for a config, and the directory that it serves."""

from __future__ import annotations

import os
from unittest import SkipTest

from natproxy.daemon import fileserver
from natproxy.daemon.descriptors import file_server_capacity, observers_for
from natproxy.daemon.fileserver_config import FileServerConfig
from natproxy.fileserver.factory import FileServerFactory
from natproxy.server.admission import Admission
from natproxy.settings import SettingError
from natproxy.storage.local.metadata import metadata_of, replica_metadata_of
from tests.support.daemons import OptionsCase
from tests.support.doubles import Journal


class MakeTests(OptionsCase):
    def test_it_listens_on_the_loopback_interface_by_default(self) -> None:
        daemon = self.server()
        daemon.privilegedStartService()
        self.assertEqual(self.reactor.tcpServers, [(9001, daemon.factory, 50, "127.0.0.1")])

    def test_values_reach_the_factory(self) -> None:
        factory = self.server("--timeout=7").factory
        assert isinstance(factory, FileServerFactory)
        self.assertEqual(factory.idle.seconds, 7.0)
        self.assertEqual(factory.first_commands.seconds, 30.0)
        self.assertEqual(factory.services.storage.path, os.fsencode(self.directory))

    def test_every_relay_has_a_method(self) -> None:
        for relay in fileserver.RELAYS:
            self.server(f"--relay={relay}")


class AdmissionTests(OptionsCase):
    def admission(self, *arguments: str, descriptors: int = 65_536) -> Admission:
        return self.server(*arguments, descriptors=descriptors).factory.admission

    def test_limits(self) -> None:
        for arguments, clients, per_host in (
            ((), 10_000, 0),
            (("--max-clients=500", "--max-clients-per-host=7"), 500, 7),
        ):
            admission = self.admission(*arguments)
            self.assertEqual((admission.clients, admission.per_host), (clients, per_host))

    def test_number_of_clients_follows_from_the_descriptors(self) -> None:
        journal = Journal(self)
        capacity = file_server_capacity(256, observers_for(FileServerConfig(), 256))
        self.assertEqual(self.admission(descriptors=256).clients, capacity.clients)
        self.assertEqual(journal.lines(), [])
        admission = self.admission("--max-clients=300", descriptors=256)
        self.assertEqual(admission.clients, capacity.clients)
        journal.line_with(
            f"fileserver: --max-clients 300: there are descriptors for {capacity.clients} clients"
        )


class DefaultDirectoryTests(OptionsCase):
    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.directory)

    def test_it_is_named_files_and_created(self) -> None:
        for created in (True, False):
            served = fileserver.open_directory(FileServerConfig())
            self.assertEqual(served.directory.path, os.fsencode(os.path.abspath("files")))
            self.assertEqual(served.created, created)

    def test_it_is_removed_if_it_was_created_and_is_empty(self) -> None:
        for content in ([], ["files"]):
            served = fileserver.open_directory(FileServerConfig())
            for name in content:
                open(os.path.join("files", name), "w").close()
            served.remove_created()
            self.assertEqual(os.listdir(), content)


class NamedDirectoryTests(OptionsCase):
    def assert_missing(self, path: str) -> None:
        message = self.assert_refused(fileserver.Options, "--files", path)
        self.assertIn("no such directory; create it, or name one that exists", message)
        self.assertFalse(os.path.exists(path))

    def test_missing_directory_that_was_named_is_an_error_and_not_created(self) -> None:
        for missing in ("typo", "deep/down"):
            self.assert_missing(os.path.join(self.directory, missing))
        message = self.assert_refused(fileserver.Options, "--files", "")
        self.assertIn("must not be empty", message)
        self.assertEqual(os.listdir(self.directory), [])

    def test_missing_default_directory_is_an_error_once_it_is_named(self) -> None:
        self.assert_missing("./files")

    def test_existing_directory_is_left_as_it_is(self) -> None:
        os.chmod(self.directory, 0o711)
        before = os.stat(self.directory)
        self.server()
        self.assertEqual(os.stat(self.directory), before)

    def test_file_in_the_place_of_the_directory(self) -> None:
        file = os.path.join(self.directory, "file")
        with open(file, "wb"):
            pass
        for path in (file, os.path.join(file, "inside")):
            message = self.assert_refused(fileserver.Options, "--files", path)
            self.assertIn("not a directory", message)

    def test_dangling_link_in_the_place_of_the_directory(self) -> None:
        link = os.path.join(self.directory, "link")
        os.symlink("nowhere", link)
        self.assert_missing(link)

    def test_unreadable_directory(self) -> None:
        os.chmod(self.directory, 0o300)
        if os.access(self.directory, os.R_OK):
            raise SkipTest("root may read everything")
        self.addCleanup(os.chmod, self.directory, 0o700)
        message = self.assert_refused(fileserver.Options, "--files", self.directory)
        self.assertIn("Permission denied", message)

    def test_etags_are_made_of_what_the_setting_says(self) -> None:
        with open(os.path.join(self.directory, "a"), "wb") as file:
            file.write(b"content")
        result = os.stat(file.name)
        for etag, metadata in (
            ("file", metadata_of(result)),
            ("content", replica_metadata_of(result, b"a")),
        ):
            config = FileServerConfig.load({"files": self.directory, "etag": etag}, {})
            directory = fileserver.open_directory(config).directory
            self.assertEqual(directory.metadata(b"a"), metadata)
        with self.assertRaisesRegex(SettingError, "--etag both: must be one of file, content"):
            FileServerConfig.load({"etag": "both"}, {})

    def test_directory_is_found_after_a_change_of_the_working_directory(self) -> None:
        served = fileserver.open_directory(FileServerConfig(files="."))
        self.assertTrue(os.path.isabs(served.directory.path))
