from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from natproxy.client.control import finding
from natproxy.client.control.finding import Search
from natproxy.client.errors import CannotConnect, NoDaemon, UsageError
from tests.support.control_server import ControlServer, document


class SearchTests(SynchronousTestCase):
    def setUp(self) -> None:
        # Directories of the system are left out; those of a test must have short paths.
        base = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, base)
        self.first, self.second = base / "first", base / "second"
        for each in (self.first, self.second):
            each.mkdir()
        directories = [str(self.first), str(base / "missing"), str(self.second)]
        self.patch(finding, "socket_candidates", lambda environ, uid: directories)
        self.environ: dict[str, str] = {}

    def search(self) -> Search:
        return Search(self.environ, os.geteuid())

    def run_daemon(self, directory: Path, name: str, kind: str = "proxy") -> ControlServer:
        reply = document({"kind": kind, "name": name})
        server = ControlServer(directory / f"{name}.sock", lambda _: reply)
        self.addCleanup(server.close)
        return server

    def run_two(self) -> tuple[str, str]:
        return (
            self.run_daemon(self.first, "proxy-9000").path,
            self.run_daemon(self.second, "files-9001", "fileserver").path,
        )

    def test_only_daemon_that_runs_is_found_among_stale_sockets(self) -> None:
        self.run_daemon(self.first, "stale").close()
        (self.first / "file.sock").touch()
        path = self.run_daemon(self.second, "proxy-9000").path
        self.assertEqual(self.search().daemon().path, path)

    def test_several_daemons_are_listed(self) -> None:
        self.run_two()
        with self.assertRaisesRegex(UsageError, "run: proxy-9000, files-9001; --name selects one"):
            self.search().daemon()

    def test_several_daemons_of_one_name_are_listed_by_their_paths(self) -> None:
        first = self.run_daemon(self.first, "a").path
        second = self.run_daemon(self.second, "a").path
        with self.assertRaisesRegex(UsageError, f"{first}, {second}; --control selects one"):
            self.search().daemon(name="a")

    def test_kind_decides_between_several(self) -> None:
        proxy, files = self.run_two()
        self.assertEqual(self.search().daemon(kind="proxy").path, proxy)
        self.assertEqual(self.search().daemon(kind="fileserver").path, files)

    def test_daemons_of_another_kind_are_none(self) -> None:
        self.run_daemon(self.second, "files-9001", "fileserver")
        with self.assertRaisesRegex(NoDaemon, "no proxy runs: files-9001 is a file server"):
            self.search().daemon(kind="proxy")
        with self.assertRaisesRegex(NoDaemon, "files-9001 is a file server: the name of a proxy"):
            self.search().daemon(name="files-9001", kind="proxy")
        self.run_daemon(self.first, "files-9003", "fileserver")
        with self.assertRaisesRegex(NoDaemon, "files-9003, files-9001 are file servers"):
            self.search().daemon(kind="proxy")

    def test_daemon_that_does_not_reply_may_be_the_one(self) -> None:
        server = ControlServer(self.first / "proxy-9000.sock", lambda _: [])
        self.addCleanup(server.close)
        self.run_daemon(self.second, "files-9001", "fileserver")
        self.assertEqual(self.search().daemon(kind="proxy").path, server.path)

    def test_name_selects_one(self) -> None:
        _, files = self.run_two()
        self.assertEqual(self.search().daemon(name="files-9001").path, files)

    def test_unknown_name_is_an_error_that_lists_those_that_run(self) -> None:
        self.run_two()
        reason = f"'x' runs: .*{self.first}.*; these run: proxy-9000, files-9001"
        with self.assertRaisesRegex(NoDaemon, reason) as caught:
            self.search().daemon(name="x")
        self.assertEqual(caught.exception.exit_status, 4)

    def test_no_daemon_is_an_error_that_names_the_places_and_a_remedy(self) -> None:
        reason = f"no daemon runs: .*{self.first}, .*{self.second}; 'natproxy up' starts one"
        with self.assertRaisesRegex(NoDaemon, reason):
            self.search().daemon()

    def test_stale_socket_is_no_daemon(self) -> None:
        self.run_daemon(self.first, "stale").close()
        for name in (None, "stale"):
            with self.assertRaisesRegex(NoDaemon, "runs: no"):
                self.search().daemon(name=name)

    def test_option_overrides_the_environment(self) -> None:
        self.environ["NATPROXY_CONTROL"] = "/of/the/environment"
        self.assertEqual(self.search().daemon().path, "/of/the/environment")
        self.assertEqual(self.search().daemon(control="/option").path, "/option")
        path = self.run_daemon(self.first, "a").path
        self.assertEqual(self.search().daemon(name="a").path, path)

    def test_socket_that_is_turned_off_is_a_usage_error(self) -> None:
        with self.assertRaisesRegex(UsageError, "--control: the path"):
            self.search().daemon(control="none")
        self.environ["NATPROXY_CONTROL"] = "none"
        with self.assertRaisesRegex(UsageError, "NATPROXY_CONTROL: the path"):
            self.search().daemon()

    def test_socket_and_name_exclude_each_other(self) -> None:
        with self.assertRaisesRegex(UsageError, "exclude each other"):
            self.search().daemon(control="/a", name="b")

    def test_daemon_of_another_user_is_named_if_there_is_no_other(self) -> None:
        self.run_daemon(self.first, "a")
        denied = CannotConnect("a.sock: permission denied")
        with (
            mock.patch.object(finding, "connect", side_effect=denied),
            self.assertRaisesRegex(CannotConnect, "permission denied"),
        ):
            self.search().daemon()

    def test_journals_are_found_by_name(self) -> None:
        for name in ("proxy-9000", "other"):
            (self.first / name).mkdir()
        self.patch(finding, "journal_candidates", lambda environ, uid: [str(self.first)])
        self.assertEqual([each.name for each in self.search().journals()], ["other", "proxy-9000"])
        (place,) = self.search().journals("other")
        self.assertEqual(place.path, str(self.first / "other"))
