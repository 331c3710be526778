"""A folder like one on the server: what differs is fetched, and nothing leads outside."""

from __future__ import annotations

import os
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from natproxy import wire
from natproxy.client import LocalError, NotFound, NotUnderstood, Unsupported, UsageError
from natproxy.client.mirror import DEEPEST, Plan, compare, remove
from tests.served_files import MTIME, Fault, FetchCase

FILE = wire.Status(wire.FILE, 3, MTIME, "e")
FOLDER = wire.Status(wire.DIRECTORY, 0, MTIME, "d")


class MirrorCase(FetchCase):
    def compare(self, name: bytes = b"") -> Plan:
        return compare(self.session, name, self.folder)

    def names(self, paths: list[bytes]) -> list[bytes]:
        return [os.path.relpath(path, self.folder) for path in paths]


class PlanTests(MirrorCase):
    def test_new_changed_and_unchanged_files_are_told_apart(self) -> None:
        for name in (b"new", b"same", b"size", b"time", b"d/new", b"d/same"):
            self.server.put(name, b"abc")
        self.write(b"same", b"xyz", MTIME)
        self.write(b"d/same", b"xyz", MTIME)
        self.write(b"size", b"abcd", MTIME)
        self.write(b"time", b"abc", MTIME + 10**9)
        plan = self.compare()
        self.assertEqual([one.name for one in plan.fetch], [b"d/new", b"new", b"size", b"time"])
        self.assertEqual(self.names([one.path for one in plan.fetch])[0], b"d/new")
        self.assertEqual((plan.unchanged, plan.size, plan.extra, plan.folders), (2, 12, [], []))

    def test_times_are_compared_as_precisely_as_they_can_be_kept(self) -> None:
        self.server.put(b"a", b"abc")
        for grain in (1, 100, 1000, 10**6, 10**9, 2 * 10**9):
            self.write(b"a", b"abc", MTIME - MTIME % grain)
            self.assertEqual(self.compare().unchanged, 1, grain)

    def test_folder_below_is_compared_alone(self) -> None:
        for name in (b"d/a", b"d/e/b", b"d2/c", b"x"):
            self.server.put(name, b"abc")
        plan = self.compare(b"/d/")
        self.assertEqual(self.names([one.path for one in plan.fetch]), [b"a", b"e/b"])
        self.assertEqual([one.name for one in plan.fetch], [b"d/a", b"d/e/b"])

    def test_many_pages(self) -> None:
        self.server.page = 3
        for number in range(20):
            self.server.put(b"%d/a" % number, b"abc")
        self.assertEqual((len(self.compare().fetch), len(self.compare().folders)), (20, 20))

    def test_empty_folders_are_made_too(self) -> None:
        self.server.folders = {b"e", b"f/g"}
        os.mkdir(self.path(b"e"))
        self.assertEqual(self.names(self.compare().folders), [b"f", b"f/g"])

    def test_what_the_server_does_not_have_is_extra_from_the_inside_out(self) -> None:
        self.server.put(b"d/a", b"abc")
        for name in (b"d/a", b"d/x", b"y/z/w", b"v"):
            self.write(name, b"abc", MTIME)
        os.symlink(b"/", self.path(b"link"))
        extra = self.names(self.compare().extra)
        self.assertEqual(sorted(extra), [b"d/x", b"link", b"v", b"y", b"y/z", b"y/z/w"])
        self.assertLess(extra.index(b"y/z/w"), extra.index(b"y/z"))
        self.assertLess(extra.index(b"y/z"), extra.index(b"y"))

    def test_folder_that_only_its_content_tells_of_is_not_extra(self) -> None:
        self.server.listing = [wire.Entry(b"d/e/a", FILE)]
        self.write(b"d/e/a", b"abc", MTIME)
        self.write(b"d/f/b", b"abc")
        plan = self.compare()
        self.assertEqual((plan.unchanged, self.names(plan.extra)), (1, [b"d/f/b", b"d/f"]))

    def test_nothing_is_extra_in_a_folder_that_the_server_cannot_list(self) -> None:
        self.server.folders = {b"closed", b"empty", b"gone"}
        for name in (b"closed/a", b"closed/e/b", b"empty/c", b"closed2/d"):
            self.write(name, b"abc")
        os.mkdir(self.path(b"gone"))
        self.server.fail(b"LS", Fault(), Fault(answer=b"ERR 404 file not found\n"))
        plan = self.compare()
        self.assertEqual(plan.unread, [b"closed"])
        self.assertEqual(sorted(self.names(plan.extra)), [b"closed2", b"closed2/d", b"empty/c"])
        # What has nothing to lose need not be asked about.
        asked = [arguments.partition(b" ")[0] for arguments in self.server.asked(b"LS")]
        self.assertEqual(asked[1:], [b"closed", b"empty"])

    def test_incomplete_downloads_are_not_extra_nor_what_they_are_in(self) -> None:
        self.server.put(b"a", b"abc")
        for name in (b".a.part", b".a.part.json", b"d/e/.b.part", b"d/f"):
            self.write(name, b"")
        self.assertEqual(self.names(self.compare().extra), [b"d/f"])

    def test_incomplete_downloads_of_the_server_are_left_out(self) -> None:
        # Under such a name, another file of the server may be under way here.
        for name in (b"a", b".a.part", b".a.part.json", b"d/.b.part"):
            self.server.put(name, b"abc")
        plan = self.compare()
        self.assertEqual([one.name for one in plan.fetch], [b"a"])
        self.assertEqual(plan.left_out, 3)

    def test_folder_here_need_not_exist(self) -> None:
        self.server.put(b"a", b"abc")
        plan = compare(self.session, b"", self.path(b"none"))
        self.assertEqual((len(plan.fetch), plan.extra), (1, []))

    def test_folder_here_may_be_written_in_any_way(self) -> None:
        self.server.put(b"d/a", b"abc")
        self.write(b"d/a", b"abc", MTIME)
        here = os.getcwd()
        self.addCleanup(os.chdir, here)
        os.chdir(self.folder)
        for folder in (b".", b"./", b"", self.folder, self.folder + b"//", self.path(b"d", b"..")):
            plan = compare(self.session, b"", folder or b".")
            self.assertEqual((plan.unchanged, plan.extra), (1, []), folder)

    def test_only_folders_can_be_compared(self) -> None:
        self.server.put(b"a", b"abc")
        self.assertRaises(UsageError, self.compare, b"a")
        self.assertRaises(NotFound, self.compare, b"none")
        self.server.version = 1
        self.session._version = None
        self.assertRaises(Unsupported, self.compare)


class HostileServerTests(MirrorCase):
    def listed(self, *entries: tuple[bytes, wire.Status]) -> Plan:
        self.server.folders = {b"d"}
        self.server.listing = [wire.Entry(name, status) for name, status in entries]
        return self.compare(b"d")

    def test_names_that_lead_astray_are_refused(self) -> None:
        for name in (
            *(b"d/../x", b"d/..", b"d/.", b"d/./x", b"d//x", b"d/", b"d", b"d/x/", b"d/x/../y"),
            *(b"x", b"/etc/x", b"../x", b"dx", b"d/a\0b", b"/d/x", b"./d/x", b"d/x/.."),
        ):
            for status in (FILE, FOLDER):
                error = self.assertRaises(NotUnderstood, self.listed, (name, status))
                self.assertIn("leads astray", str(error))

    def test_name_that_is_listed_twice_is_refused(self) -> None:
        self.assertRaises(NotUnderstood, self.listed, (b"d/a", FILE), (b"d/a", FILE))

    def test_folders_that_are_too_deep_are_refused(self) -> None:
        for levels in (DEEPEST + 1, 2000, 8000):
            for status in (FILE, FOLDER):
                name = b"/".join([b"d"] * (levels + 2))
                error = self.assertRaises(LocalError, self.listed, (name, status))
                self.assertTrue(str(error).endswith("is too deep") or len(name) > 1024, error)
        deep = b"/".join([b"d"] * (DEEPEST + 2))
        self.assertEqual(len(self.listed((deep, FILE)).fetch), 1)

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.sampled_from((b"..", b".", b"", b"a", b"d", b"/", b"\0")), max_size=5))
    def test_any_name_stays_inside_or_is_refused(self, parts: list[bytes]) -> None:
        name = b"/".join(parts)
        if not name:
            return
        try:
            plan = self.listed((name, FILE))
        except NotUnderstood:
            return
        path = plan.fetch[0].path
        self.assertEqual(os.path.normpath(path), path)
        self.assertTrue(path.startswith(self.folder + b"/"))

    def test_kinds_that_are_not_known_are_neither_fetched_nor_extra(self) -> None:
        self.write(b"a", b"abc")
        plan = self.listed((b"d/a", FILE._replace(type="socket")))
        self.assertEqual((plan.fetch, plan.folders, plan.extra), ([], [], []))

    def test_link_here_is_not_followed_to_write_elsewhere(self) -> None:
        # Even if the server doesn't tell of the folder that the file would be in.
        elsewhere = self.path(b"..", os.path.basename(self.folder) + b".elsewhere")
        os.mkdir(elsewhere)
        self.addCleanup(os.rmdir, elsewhere)
        os.symlink(elsewhere, self.path(b"sub"))
        for entries in (
            [(b"d/sub", FOLDER)],
            [(b"d/sub/a", FILE)],
            [(b"d/sub/e/a", FILE)],
            [(b"d/sub", FOLDER), (b"d/sub/a", FILE)],
        ):
            error = self.assertRaises(LocalError, self.listed, *entries)
            self.assertTrue(str(error).endswith("/sub: is a link here, a folder there"), error)


class InTheWayTests(MirrorCase):
    def test_file_where_a_folder_is_to_be(self) -> None:
        self.server.put(b"d/a", b"abc")
        self.write(b"d", b"")
        error = self.assertRaises(LocalError, self.compare)
        self.assertIn("/d: is a file here, a folder there", str(error))

    def test_folder_where_a_file_is_to_be(self) -> None:
        self.server.put(b"d", b"abc")
        os.mkdir(self.path(b"d"))
        error = self.assertRaises(LocalError, self.compare)
        self.assertIn("/d: is a folder here, a file there", str(error))

    def test_file_where_all_is_to_be(self) -> None:
        self.write(b"file", b"")
        for make in (lambda: self.server.put(b"a", b""), lambda: self.server.put(b"d/a", b"")):
            make()
            self.assertRaises(LocalError, compare, self.session, b"", self.path(b"file"))

    def test_link_to_a_file_is_compared_by_what_it_leads_to(self) -> None:
        self.server.put(b"link", b"abc")
        self.server.put(b"nowhere", b"abc")
        self.write(b"target", b"abc", MTIME)
        os.symlink(b"target", self.path(b"link"))
        os.symlink(b"gone", self.path(b"nowhere"))
        plan = self.compare()
        self.assertEqual(([one.name for one in plan.fetch], plan.unchanged), ([b"nowhere"], 1))

    def test_what_is_no_file_never_looks_the_same(self) -> None:
        self.server.put(b"fifo", b"")
        os.mkfifo(self.path(b"fifo"))
        os.utime(self.path(b"fifo"), ns=(MTIME, MTIME))
        self.assertEqual(len(self.compare().fetch), 1)

    def test_folder_that_cannot_be_read(self) -> None:
        self.write(b"d/a", b"")
        denied = PermissionError(13, "denied", self.path(b"d").decode())
        with mock.patch("os.scandir", side_effect=denied):
            self.assertRaises(LocalError, self.compare)


class RemovingTests(MirrorCase):
    def test_files_links_and_empty_folders_are_gone(self) -> None:
        self.write(b"d/a", b"")
        self.write(b"kept/b", b"")
        os.symlink(b"kept", self.path(b"link"))
        remove([self.path(*names) for names in ((b"d", b"a"), (b"d",), (b"link",))])
        self.assertEqual((self.files(), self.read(b"kept", b"b")), ([b"kept"], b""))

    def test_folder_that_is_not_empty_stays(self) -> None:
        self.write(b"d/a", b"")
        self.assertRaises(LocalError, remove, [self.path(b"d")])
        self.assertEqual(self.files(), [b"d"])
