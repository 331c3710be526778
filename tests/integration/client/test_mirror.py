"""A local mirror of a remote directory: differences are found, and nothing outside is accessed."""

from __future__ import annotations

import errno
import os
import tracemalloc
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from natproxy.client import LocalError, NotFound, NotUnderstood, Unsupported, UsageError
from natproxy.client.transfer import comparison
from natproxy.client.transfer.comparison import DEEPEST
from natproxy.client.transfer.mirror import (
    MirrorRules,
    compare,
    compare_pages,
    plan_for,
    run_once,
)
from natproxy.client.transfer.plan import MirrorPlan
from natproxy.client.transfer.tree import LocalTree, Scanned
from natproxy.protocol import (
    DIRECTORY,
    FILE,
    UNREAD_METADATA,
    Entry,
    Metadata,
    Page,
    format_entry,
    format_page,
)
from tests.support.mirrors import MirrorCase
from tests.support.served_files import MTIME, Fault

FILE = Metadata(FILE, 3, MTIME, "e")
FOLDER = Metadata(DIRECTORY, 0, MTIME, "d")


class PlanTests(MirrorCase):
    def test_new_changed_and_unchanged_files_are_distinguished(self) -> None:
        for name in (b"new", b"same", b"size", b"time", b"d/new", b"d/same"):
            self.server.put(name, b"abc")
        self.write(b"same", b"xyz", MTIME)
        self.write(b"d/same", b"xyz", MTIME)
        self.write(b"size", b"abcd", MTIME)
        self.write(b"time", b"abc", MTIME + 10**9)
        plan = self.compare()
        self.assertEqual([one.name for one in plan.downloads], [b"d/new", b"new", b"size", b"time"])
        self.assertEqual(self.paths(plan)[0], self.path(b"d/new"))
        self.assertEqual((plan.unchanged, plan.size, plan.extra), (2, 12, []))
        self.assertEqual(plan.directories, [])

    def test_times_are_compared_as_precisely_as_they_can_be_kept(self) -> None:
        self.server.put(b"a", b"abc")
        for grain in (1, 100, 1000, 10**6, 10**9, 2 * 10**9):
            self.write(b"a", b"abc", MTIME - MTIME % grain)
            self.assertEqual(self.compare().unchanged, 1, grain)

    def test_subdirectory_is_compared_alone(self) -> None:
        for name in (b"d/a", b"d/e/b", b"d2/c", b"x"):
            self.server.put(name, b"abc")
        plan = self.compare(b"/d/")
        self.assertEqual(self.paths(plan), [self.path(b"a"), self.path(b"e/b")])
        self.assertEqual([one.name for one in plan.downloads], [b"d/a", b"d/e/b"])

    def test_many_pages(self) -> None:
        self.server.page = 3
        for number in range(20):
            self.server.put(b"%d/a" % number, b"abc")
        plan = self.compare()
        self.assertEqual((len(plan.downloads), len(plan.directories)), (20, 20))

    def test_empty_directories_are_created(self) -> None:
        self.server.directories = {b"e", b"f/g"}
        os.mkdir(self.path(b"e"))
        self.assertEqual(self.compare().directories, [b"f", b"f/g"])

    def test_extra_paths_come_before_their_directories(self) -> None:
        self.server.put(b"d/a", b"abc")
        for name in (b"d/a", b"d/x", b"y/z/w", b"v"):
            self.write(name, b"abc", MTIME)
        os.symlink(b"/", self.path(b"link"))
        plan = self.compare()
        extra = self.extra(plan)
        directories = {each.path for each in plan.extra if each.directory}
        self.assertEqual((directories, plan.local_files), ({b"y", b"y/z"}, 5))
        self.assertEqual(sorted(extra), [b"d/x", b"link", b"v", b"y", b"y/z", b"y/z/w"])
        self.assertLess(extra.index(b"y/z/w"), extra.index(b"y/z"))
        self.assertLess(extra.index(b"y/z"), extra.index(b"y"))

    def test_directory_that_is_listed_only_by_its_content_is_not_extra(self) -> None:
        self.server.listing = [Entry(b"d/e/a", FILE)]
        self.write(b"d/e/a", b"abc", MTIME)
        self.write(b"d/f/b", b"abc")
        plan = self.compare()
        self.assertEqual((plan.unchanged, self.extra(plan)), (1, [b"d/f/b", b"d/f"]))

    def test_nothing_is_extra_in_an_unlistable_directory(self) -> None:
        self.server.directories = {b"closed", b"empty", b"gone"}
        for name in (b"closed/a", b"closed/e/b", b"empty/c", b"closed2/d"):
            self.write(name, b"abc")
        os.mkdir(self.path(b"gone"))
        self.server.fail(b"LS", Fault(), Fault(reply=b"ERR 404 file not found\n"))
        plan = self.compare()
        self.assertEqual(plan.unread, [b"closed"])
        self.assertEqual(sorted(self.extra(plan)), [b"closed2", b"closed2/d", b"empty/c"])
        # A directory without extra paths is not checked.
        listed = [arguments.partition(b" ")[0] for arguments in self.server.arguments_of(b"LS")]
        self.assertEqual(listed[1:], [b"closed", b"empty"])

    def test_partial_downloads_and_their_directories_are_not_extra(self) -> None:
        self.server.put(b"a", b"abc")
        for name in (b".a.part", b".a.part.json", b"d/e/.b.part", b"d/f"):
            self.write(name, b"")
        self.assertEqual(self.extra(self.compare()), [b"d/f"])

    def test_partial_downloads_of_the_server_are_skipped(self) -> None:
        # Such a name may be that of a partial download of another file.
        for name in (b"a", b".a.part", b".a.part.json", b"d/.b.part"):
            self.server.put(name, b"abc")
        plan = self.compare()
        self.assertEqual([one.name for one in plan.downloads], [b"a"])
        self.assertEqual(plan.skipped, 3)

    def test_local_directory_need_not_exist(self) -> None:
        self.server.put(b"a", b"abc")
        plan = compare(self.session, b"", self.tree(self.path(b"none")))
        self.assertEqual((len(plan.downloads), plan.extra), (1, []))

    def test_local_directory_may_be_spelt_in_several_ways(self) -> None:
        self.server.put(b"d/a", b"abc")
        self.write(b"d/a", b"abc", MTIME)
        here = os.getcwd()
        self.addCleanup(os.chdir, here)
        os.chdir(self.directory)
        same = (b".", b"./", b"", self.directory, self.directory + b"//", self.path(b"d", b".."))
        for path in same:
            plan = compare(self.session, b"", self.tree(path))
            self.assertEqual((plan.unchanged, plan.extra), (1, []), path)

    def test_only_directories_can_be_compared(self) -> None:
        self.server.put(b"a", b"abc")
        self.assertRaises(UsageError, self.compare, b"a")
        self.assertRaises(NotFound, self.compare, b"none")
        self.server.version = 1
        self.session._version = None
        self.assertRaises(Unsupported, self.compare)


class HostileServerTests(MirrorCase):
    def listed(self, *entries: tuple[bytes, Metadata]) -> MirrorPlan:
        self.server.directories = {b"d"}
        self.server.listing = [Entry(name, metadata) for name, metadata in entries]
        return self.compare(b"d")

    def test_unsafe_names_are_rejected(self) -> None:
        for name in (
            *(b"d/../x", b"d/..", b"d/.", b"d/./x", b"d//x", b"d/", b"d/x/", b"d/x/../y"),
            *(b"x", b"/etc/x", b"../x", b"dx", b"d/a\0b", b"/d/x", b"./d/x", b"d/x/.."),
        ):
            for metadata in (FILE, FOLDER):
                error = self.assertRaises(NotUnderstood, self.listed, (name, metadata))
                self.assertIn("unsafe path", str(error))
        # A file lists itself, a directory does not.
        self.assertRaises(UsageError, self.listed, (b"d", FILE))
        self.assertRaises(NotUnderstood, self.listed, (b"d", FOLDER))
        self.assertRaises(NotUnderstood, self.listed, (b"d", FILE), (b"d/a", FILE))

    def test_names_listed_twice_or_out_of_order_are_rejected(self) -> None:
        for names in ((b"d/a", b"d/a"), (b"d/b", b"d/a"), (b"d/e/a", b"d/e")):
            error = self.assertRaises(NotUnderstood, self.listed, *((n, FILE) for n in names))
            self.assertIn("out of order", str(error))

    def test_too_deep_directories_are_blocked_and_reported_once(self) -> None:
        for levels in (DEEPEST + 1, 2000, 8000):
            for metadata in (FILE, FOLDER):
                name = b"/".join([b"d"] * (levels + 2))
                plan = self.listed((b"d/a", FILE), (name, metadata), (name + b"e", FILE))
                self.assertEqual([each.name for each in plan.downloads], [b"d/a"])
                self.assertEqual((len(plan.obstacles), plan.blocked), (1, 2))
                (obstacle,) = plan.obstacles
                self.assertEqual(obstacle.name.count(b"/"), DEEPEST + 1)
                self.assertEqual(obstacle.error.errno, errno.ENAMETOOLONG)
        deep = b"/".join([b"d"] * (DEEPEST + 2))
        self.assertEqual(len(self.listed((deep, FILE)).downloads), 1)

    def test_reserved_names_of_directories_that_are_not_listed_are_skipped(self) -> None:
        reserved = b"d/.natproxy-0123456789ab.part"
        plan = self.listed((reserved + b"/e/x", FILE), (b"d/.y.part/z", FILE), (b"d/a", FILE))
        self.assertEqual([each.name for each in plan.downloads], [b"d/a"])
        self.assertEqual((plan.directories, plan.skipped), ([], 2))
        self.assertEqual(plan.skipped_directories, [reserved, b"d/.y.part"])

    def test_directories_that_are_not_listed_are_limited(self) -> None:
        # One entry of a page may need as many directories as are created at all.
        deep = b"/".join([b"long name"] * (DEEPEST - 1))
        entries = [(b"d/%d/%b" % (number, deep), FILE) for number in range(3)]
        with mock.patch.object(comparison, "MOST_UNLISTED", 10**6):
            error = self.assertRaises(NotUnderstood, self.listed, *entries)
            self.assertIn("in directories it does not list", str(error))
            self.assertEqual(len(self.listed(entries[0]).directories), DEEPEST - 1)
        self.assertEqual(len(self.listed(*entries).directories), 3 * (DEEPEST - 1))

    @settings(deadline=None)
    @given(st.lists(st.sampled_from((b"..", b".", b"", b"a", b"d", b"/", b"\0")), max_size=5))
    def test_random_names_stay_inside_or_are_rejected(self, parts: list[bytes]) -> None:
        name = b"/".join(parts)
        if not name:
            return
        try:
            plan = self.listed((name, FILE))
        except (NotUnderstood, UsageError):
            return
        (path,) = self.paths(plan)
        self.assertEqual(os.path.normpath(path), path)
        self.assertTrue(path.startswith(self.directory + b"/"))

    def test_unknown_types_are_neither_downloaded_nor_extra(self) -> None:
        self.write(b"a", b"abc")
        self.write(b"e/f", b"abc")
        other = FILE._replace(type="socket")
        plan = self.listed((b"d/a", other), (b"d/e", other))
        self.assertEqual((plan.downloads, plan.directories, plan.extra), ([], [], []))
        self.assertEqual((plan.unknown, plan.source_files), (2, 0))

    def test_local_link_is_not_followed(self) -> None:
        # Even if the server does not list the directory of the file.
        elsewhere = self.path(b"..", os.path.basename(self.directory) + b".elsewhere")
        os.mkdir(elsewhere)
        self.addCleanup(os.rmdir, elsewhere)
        os.symlink(elsewhere, self.path(b"sub"))
        for entries in (
            [(b"d/sub", FOLDER)],
            [(b"d/sub/a", FILE)],
            [(b"d/sub/e/a", FILE)],
            [(b"d/sub", FOLDER), (b"d/sub/a", FILE)],
        ):
            plan = self.listed(*entries)
            self.assertEqual(self.obstacles(plan), ["sub: is a link here, a directory there"])
            self.assertEqual((plan.downloads, plan.directories, plan.extra), ([], [], []))


class ObstacleTests(MirrorCase):
    """An obstacle to one entry is reported, and the other entries are compared."""

    def test_file_in_place_of_a_directory(self) -> None:
        for name in (b"d/a", b"d/e/b", b"z"):
            self.server.put(name, b"abc")
        self.write(b"d", b"")
        plan = self.compare()
        self.assertEqual(self.obstacles(plan), ["d: is a file here, a directory there"])
        self.assertEqual([entry.name for entry in plan.downloads], [b"z"])
        self.assertEqual((plan.blocked, plan.extra, plan.directories), (3, [], []))

    def test_directory_in_place_of_a_file(self) -> None:
        self.server.put(b"d", b"abc")
        self.server.put(b"z", b"abc")
        self.write(b"d/mine", b"mine")
        plan = self.compare()
        self.assertEqual(self.obstacles(plan), ["d: is a directory here, a file there"])
        self.assertEqual([entry.name for entry in plan.downloads], [b"z"])
        self.assertEqual(plan.extra, [])

    def test_obstacles_have_the_names_on_the_server(self) -> None:
        self.server.put(b"top/d/a", b"abc")
        self.write(b"d", b"")
        self.assertEqual([each.name for each in self.compare(b"top").obstacles], [b"top/d"])

    def test_file_in_place_of_the_root(self) -> None:
        self.write(b"file", b"")
        self.assertRaises(LocalError, self.tree, self.path(b"file"))

    def test_link_to_a_file_is_compared_by_its_target(self) -> None:
        self.server.put(b"link", b"abc")
        self.server.put(b"nowhere", b"abc")
        self.write(b"target", b"abc", MTIME)
        os.symlink(b"target", self.path(b"link"))
        os.symlink(b"gone", self.path(b"nowhere"))
        plan = self.compare()
        self.assertEqual(([one.name for one in plan.downloads], plan.unchanged), ([b"nowhere"], 1))

    def test_link_to_itself_differs(self) -> None:
        self.server.put(b"loop", b"abc")
        os.symlink(b"loop", self.path(b"loop"))
        plan = self.compare()
        self.assertEqual(([each.name for each in plan.downloads], plan.obstacles), ([b"loop"], []))

    def test_special_file_is_an_obstacle(self) -> None:
        # So a dry run has the same exit status as a real one.
        self.server.put(b"fifo", b"")
        self.server.put(b"link", b"")
        os.mkfifo(self.path(b"fifo"))
        os.utime(self.path(b"fifo"), ns=(MTIME, MTIME))
        os.symlink(b"fifo", self.path(b"link"))
        plan = self.compare()
        self.assertEqual(
            self.obstacles(plan), ["fifo: is neither a file nor a link here, a file there"]
        )
        self.assertEqual([each.name for each in plan.downloads], [b"link"])

    def unreadable(self, *paths: bytes) -> None:
        """Make directories unreadable, for root too."""
        scan = LocalTree.scan

        def refuse(tree: LocalTree, path: bytes) -> tuple[list[Scanned], dict[bytes, OSError]]:
            if path in paths:
                reason = OSError(errno.EACCES, "denied")
                raise LocalError(tree.path_of(path), reason)
            return scan(tree, path)

        patcher = mock.patch.object(LocalTree, "scan", refuse)
        patcher.start()
        self.addCleanup(patcher.stop)

    def test_listed_directory_that_cannot_be_read_locally(self) -> None:
        for name in (b"d/a", b"d/e/b", b"z"):
            self.server.put(name, b"abc")
        for name in (b"d/a", b"d/mine"):
            self.write(name, b"abc", MTIME)
        self.unreadable(b"d")
        for delete_too in (False, True):
            plan = self.compare(delete=delete_too)
            self.assertEqual(self.obstacles(plan), ["d: denied"])
            self.assertEqual([entry.name for entry in plan.downloads], [b"z"])
            self.assertEqual((plan.blocked, plan.extra, plan.local_errors), (3, [], []))

    def test_unlisted_directory_that_cannot_be_read_is_kept(self) -> None:
        self.server.put(b"z", b"abc")
        for name in (b"d/e/mine", b"d/f"):
            self.write(name, b"abc")
        self.unreadable(b"d/e")
        plan = self.compare()
        self.assertEqual((self.extra(plan), plan.obstacles), ([b"d/f"], []))
        (error,) = plan.local_errors
        self.assertTrue(str(error).endswith("/d/e: denied"), error)
        self.assertEqual(self.compare(delete=False).local_errors, [])

    def test_root_that_cannot_be_read(self) -> None:
        self.unreadable(b"")
        self.assertRaises(LocalError, self.compare)

    def test_path_whose_metadata_cannot_be_read_is_kept_and_reported(self) -> None:
        self.server.put(b"a", b"abc")
        for name in (b"a", b"mine"):
            self.write(name, b"abc", MTIME)
        denied = OSError(errno.EIO, "broken")
        unread: tuple[list[Scanned], dict[bytes, OSError]] = ([], {b"a": denied, b"mine": denied})
        with mock.patch.object(LocalTree, "scan", return_value=unread):
            plan = self.compare()
        self.assertEqual(self.obstacles(plan), ["a: broken"])
        self.assertEqual((plan.extra, plan.downloads, len(plan.local_errors)), ([], [], 1))

    def test_downloads_into_directories_that_cannot_be_created_are_dropped(self) -> None:
        long = b"x" * 300
        for name in (long + b"/a", long + b"/d/b", b"d/a"):
            self.server.put(name, b"abc")
        plan = self.compare()
        plan.check_directories()
        self.assertEqual(self.files(), [])
        self.assertEqual(plan.create_directories(), [])
        self.assertEqual([each.error.errno for each in plan.obstacles], [errno.ENAMETOOLONG])
        self.assertEqual(([entry.name for entry in plan.downloads], plan.blocked), ([b"d/a"], 3))
        self.assertEqual(self.files(), [b"d"])

    def test_served_directory_named_like_a_partial_download(self) -> None:
        for name in (b"a", b".a.part/b", b".a.part/d/c", b"e/.x.part.json/y"):
            self.server.put(name, b"abc")
        self.write(b".a.part/mine", b"abc")
        plan = self.compare()
        self.assertEqual([entry.name for entry in plan.downloads], [b"a"])
        self.assertEqual((plan.directories, plan.extra, plan.skipped), ([b"e"], [], 6))
        self.assertEqual(plan.skipped_directories, [b".a.part", b"e/.x.part.json"])


class UnreadTests(MirrorCase):
    """Entries that the server cannot read are not treated as missing."""

    def listed(self, *entries: Entry, **options: Any) -> MirrorPlan:
        self.server.listing = entries
        return self.compare(**options)

    def test_nothing_is_extra_at_or_below_an_entry_that_the_server_cannot_read(self) -> None:
        for name in (b"a", b"d/e/f", b"d/g", b"d-x", b"z"):
            self.write(name, b"abc")
        plan = self.listed(Entry(b"a", UNREAD_METADATA), Entry(b"d", UNREAD_METADATA))
        self.assertEqual((plan.unread, self.extra(plan)), ([b"a", b"d"], [b"z", b"d-x"]))
        self.assertEqual((plan.downloads, plan.directories), ([], []))
        self.assertEqual(self.listed(*self.server.listing, delete=False).unread, [b"a", b"d"])

    def test_nothing_is_extra_in_a_directory_that_the_server_cannot_list(self) -> None:
        for name in (b"d/e/f", b"d/g", b"z"):
            self.write(name, b"abc")
        plan = self.listed(Entry(b"d", FOLDER, unread=True), Entry(b"new", FOLDER, True))
        self.assertEqual((plan.unread, self.extra(plan)), ([b"d", b"new"], [b"z"]))
        self.assertEqual(plan.directories, [b"new"])
        # The listing marks it: no further command is needed.
        self.assertEqual(len(self.server.arguments_of(b"LS")), 1)

    def test_nothing_is_extra_if_the_server_does_not_name_unlistable_directories(self) -> None:
        self.server.put(b"new", b"abc")
        for name in (b"d/e", b"z"):
            self.write(name, b"abc")
        page = format_entry(Entry(b"new", FILE))
        self.server.fail(b"LS", Fault(reply=format_page(len(page), Page(2)) + page))
        plan = self.compare()
        self.assertEqual(([each.name for each in plan.downloads], plan.extra), ([b"new"], []))
        self.assertEqual(plan.incomplete and plan.incomplete.count, 2)

    def test_directory_that_becomes_unreadable_between_two_pages(self) -> None:
        self.server.directories = {b"d"}
        self.server.put(b"a", b"abc")
        self.server.page = 1
        self.write(b"d/e", b"abc")
        denied = Fault(reply=b"ERR 404 file not found\n")
        self.server.fail(b"LS", Fault(), Fault(), denied)
        plan = self.compare()
        self.assertEqual((plan.unread, plan.extra), ([b"d"], []))

    def test_storage_that_vanishes_between_two_pages(self) -> None:
        # As when the server is restarted with an empty directory, or a disk is unmounted.
        self.server.page = 4
        names = [b"%02d" % number for number in range(8)]
        for name in names:
            self.server.put(name, b"abc")
            self.write(name, b"abc", MTIME)
        self.write(b"old", b"abc")

        def vanish() -> None:
            for name in names:
                self.server.remove(name)

        self.assertEqual(self.extra(self.compare()), [b"old"])
        self.server.fail(b"LS", Fault(), Fault(act=vanish))
        plan = self.compare()
        self.assertEqual((plan.unchanged, plan.extra), (4, []))
        self.assertEqual(
            str(plan.incomplete),
            "the listing is incomplete: 00 vanished from the server meanwhile",
        )

    def test_file_that_becomes_a_directory_between_two_pages(self) -> None:
        self.write(b"d", b"old", MTIME)
        plan = self.listed(Entry(b"d", FILE), Entry(b"d/a", FILE), Entry(b"z", FILE))
        self.assertEqual(self.obstacles(plan), ["d: is a file here, a directory there"])
        self.assertEqual([entry.name for entry in plan.downloads], [b"z"])
        self.assertEqual((plan.unchanged, plan.extra), (1, []))


class FoldedNamesTests(MirrorCase):
    """A local file system that ignores the case of names."""

    def setUp(self) -> None:
        super().setUp()
        lstat = LocalTree.lstat

        def fold(tree: LocalTree, path: bytes) -> os.stat_result | None:
            found = b""
            for name in path.split(b"/"):
                here = os.listdir(tree.path_of(found))
                same = [each for each in here if each.lower() == name.lower()]
                if not same:
                    return None
                found = os.path.join(found, same[0])
            return lstat(tree, found)

        patcher = mock.patch.object(LocalTree, "lstat", fold)
        patcher.start()
        self.addCleanup(patcher.stop)

    def test_alias_of_a_listed_name_is_not_extra(self) -> None:
        for name in (b"read", b"d/e/x", b"d/new", b"z"):
            self.server.put(name, b"abc")
        for name in (b"READ", b"D/E/X", b"D/old", b"z"):
            self.write(name, b"abc", MTIME)
        plan = self.compare()
        self.assertEqual(([each.name for each in plan.downloads], plan.unchanged), ([b"d/new"], 3))
        self.assertEqual((self.extra(plan), plan.directories), ([b"D/old"], []))

    def test_nothing_is_extra_if_an_unlistable_directory_has_an_alias(self) -> None:
        self.write(b"D/mine", b"abc")
        self.write(b"old", b"abc")
        for entry in (
            Entry(b"d", UNREAD_METADATA),
            Entry(b"d", FOLDER, unread=True),
            Entry(b"d", FILE._replace(type="volume")),
        ):
            self.server.listing = [entry]
            plan = self.compare()
            self.assertEqual((plan.extra, len(plan.local_errors)), ([], 1))

    def test_downloads_wait_for_the_listing_if_a_directory_has_an_alias(
        self,
    ) -> None:
        # The local traversal reaches "d" after the content of "D" has been listed.
        for name in (b"D/new", b"E", b"z"):
            self.server.put(name, b"abc")
        self.write(b"d/old", b"abc")
        self.server.page = 1
        for delete, more in ((True, []), (False, [True] * 3)):
            rules = MirrorRules(delete)
            plan = plan_for(b"", self.tree(), rules)
            pages = list(compare_pages(self.session, plan, rules, run_once))
            self.assertEqual(pages, [*more, False])


class MemoryTests(MirrorCase):
    def test_unchanged_files_use_no_memory(self) -> None:
        self.server.page = 4_000
        for number in range(4_000):
            self.server.put(b"%05d" % number, b"")
        for number in range(4_000):
            self.write(b"%05d" % number, b"", MTIME)
        self.compare()
        tracemalloc.start()
        try:
            plan = self.compare()
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        self.assertEqual((plan.unchanged, plan.extra), (4_000, []))
        # The server in the same process uses memory, too, and so do freed tuples, which Python
        # uses again. The entries take a megabyte.
        self.assertLess(held, 1 << 19)
