"""The served directory's boundary, its listing and its files: the same cases for both openers."""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import closing
from unittest import SkipTest, skipIf

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from natproxy.kernel.openat2 import choose_opener, open_beneath, open_by_walk
from natproxy.storage import LocalStorage, NotFound
from tests.support.storage import (
    CONTENT,
    INSIDE_LINKS,
    REFUSED,
    REFUSED_LINKS,
    OpenWatch,
    ServedCase,
    descriptors,
    descriptors_left,
    within,
)


class BothOpeners:
    """What is the same, whichever way names are opened."""

    opener: staticmethod
    follows_links: bool

    def setUp(self) -> None:
        super().setUp()
        self.storage = LocalStorage(self.served, self.opener)

    def listed(self) -> list[bytes]:
        with within(5):
            return list(self.storage.top_files().names)

    def test_regular_files_are_served_with_their_size(self) -> None:
        for name in (b"\xff\xfe", b"a\nb", b"END", b" ", b"...", b"\\", b"%2e", b"x" * 255):
            self.put(name, name)
            self.assertEqual(self.read(self.storage, name), name)
        for name, content in CONTENT.items():
            self.assertEqual(self.read(self.storage, name), content)

    def test_absent_outside_and_invalid_names_are_not_found(self) -> None:
        for name in (*REFUSED, *REFUSED_LINKS, b"absolute"):
            self.assert_not_found(self.storage, name)

    def test_fifo_is_neither_waited_for_nor_opened(self) -> None:
        os.mkfifo(self.path(b"fifo"))
        os.symlink(b"fifo", self.path(b"tofifo"))
        fifo, plain = OpenWatch(self.path(b"fifo")), OpenWatch(self.path(b"a.txt"))
        self.addCleanup(plain.close)
        self.addCleanup(fifo.close)
        for name in (b"fifo", b"tofifo", b"fifo/", b"fifo/a"):
            self.assert_not_found(self.storage, name)
        self.assertNotIn(b"fifo", self.listed())
        self.assertFalse(fifo.opened())
        self.read(self.storage, b"a.txt")
        self.assertTrue(plain.opened())
        with self.assertRaises(OSError) as caught:
            os.close(os.open(self.path(b"fifo"), os.O_WRONLY | os.O_NONBLOCK))
        self.assertEqual(caught.exception.errno, errno.ENXIO)

    def test_unix_socket_is_not_found(self) -> None:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(self.path(b"sock"))
        self.assert_not_found(self.storage, b"sock")
        self.assertNotIn(b"sock", self.listed())

    def test_device_is_neither_found_nor_opened(self) -> None:
        try:
            os.mknod(self.path(b"null"), stat.S_IFCHR | 0o666, os.makedev(1, 3))
        except PermissionError:
            raise SkipTest("only root makes devices") from None
        watch = OpenWatch(self.path(b"null"))
        self.addCleanup(watch.close)
        self.assert_not_found(self.storage, b"null")
        self.assertNotIn(b"null", self.listed())
        self.assertFalse(watch.opened())

    @skipIf(os.geteuid() == 0, "root reads everything")
    def test_unreadable_file_is_not_found(self) -> None:
        os.chmod(self.path(b"a.txt"), 0)
        os.chmod(self.path(b"sub"), 0)
        self.addCleanup(os.chmod, self.path(b"sub"), 0o700)
        self.assert_not_found(self.storage, b"a.txt")
        self.assert_not_found(self.storage, b"sub/b.txt")

    def test_fifo_that_replaces_the_file_after_the_check_is_not_found(self) -> None:
        os.mkfifo(self.path(b"fifo"))

        def replaced(directory: int, name: bytes, flags: int) -> int:
            if not flags & os.O_PATH:
                os.rename(self.path(b"fifo"), self.path(name))
            return self.opener(directory, name, flags)

        self.assert_not_found(LocalStorage(self.served, replaced), b"sub/b.txt")

    def test_file_of_the_top_directory_is_read_without_the_opener(self) -> None:
        opened: list[bytes] = []

        def opener(directory: int, name: bytes, flags: int) -> int:
            opened.append(name)
            return self.opener(directory, name, flags)

        storage = LocalStorage(self.served, opener)
        os.symlink(b"/etc/passwd", self.path(b"to-etc"))
        storage.metadata(b"a.txt")
        storage.open(b"a.txt").close()
        self.assertEqual(opened, [])
        # Links and directories may lead outside: they are opened.
        self.assertRaises(NotFound, storage.metadata, b"to-etc")
        storage.metadata(b"sub")
        self.assertEqual(opened, [b"to-etc", b"sub"])
        self.assertRaises(NotFound, storage.metadata, b"..")

    def test_file_of_the_top_directory_is_replaced_after_the_check(self) -> None:
        def replace(source: bytes) -> None:
            def stat(*args: object, **options: object) -> os.stat_result:
                result = original(*args, **options)
                os.rename(self.path(source), self.path(b"a.txt"))
                return result

            original = os.stat
            patched = self.patch(os, "stat", stat)
            self.addCleanup(patched.restore)
            try:
                if source == b"link" and self.follows_links:
                    self.assertEqual(self.read(self.storage, b"a.txt"), b"the b")
                else:
                    self.assert_not_found(self.storage, b"a.txt")
            finally:
                patched.restore()

        os.symlink(b"sub/b.txt", self.path(b"link"))
        os.symlink(b"../outside/secret", self.path(b"out"))
        os.mkfifo(self.path(b"fifo"))
        for source in (b"link", b"out", b"fifo"):
            os.unlink(self.path(b"a.txt"))
            self.put(b"a.txt", b"the a")
            replace(source)

    def test_links_inside_are_followed_by_the_kernel_only(self) -> None:
        for name in (*INSIDE_LINKS, b"sublink/b.txt"):
            if self.follows_links:
                self.assertIn(self.read(self.storage, name), (b"the a", b"the b"))
            else:
                self.assert_not_found(self.storage, name)

    def test_listing_is_what_open_serves_at_the_top_sorted_by_bytes(self) -> None:
        more = [b"Z", b"\xc3\xa9", b"\xff\xfe", b"a b", b"a!", b"a\xff", b"10", b"9", b"\x01"]
        for name in more:
            self.put(name, b"")
        os.mkfifo(self.path(b"fifo"))
        names = self.listed()
        links = [b"inside", b"insub"] if self.follows_links else []
        self.assertEqual(names, sorted([b"a.txt", b"b c", *more, *links]))
        for name in os.listdir(self.served):
            (self.read if name in names else self.assert_not_found)(self.storage, name)

    def test_replaced_directory_is_served_anew(self) -> None:
        self.read(self.storage, b"a.txt")
        self.listed()
        os.rename(self.served, self.served + b".old")
        os.mkdir(self.served)
        self.put(b"new", b"new")
        self.assertEqual(self.read(self.storage, b"new"), b"new")
        self.assert_not_found(self.storage, b"a.txt")
        self.assertEqual(self.listed(), [b"new"])

    def test_missing_directory_serves_and_lists_nothing(self) -> None:
        for path in (self.path(b"nowhere"), self.path(b"a.txt")):
            storage = LocalStorage(path, self.opener)
            self.assert_not_found(storage, b"a.txt")
            self.assertRaises(OSError, storage.top_files)
            self.assertRaises(OSError, storage.check)

    def test_lack_of_descriptors_is_not_reported_as_not_found(self) -> None:
        for name in (b"a.txt", b"sub/deep/c"):
            for left in range(5):
                try:
                    with descriptors_left(left):
                        self.storage.open(name).close()
                except OSError as error:
                    self.assertEqual(error.errno, errno.EMFILE)
                    self.assertLess(left, 4)
                else:
                    self.assertGreater(left, 1)

    def test_lack_of_descriptors_never_shortens_the_listing(self) -> None:
        whole = self.listed()
        for left in range(6):
            try:
                with descriptors_left(left):
                    listing = self.listed()
            except OSError as error:
                self.assertEqual(error.errno, errno.EMFILE)
                self.assertLess(left, 5)
            else:
                self.assertEqual(listing, whole, f"with {left} descriptors left")

    def test_failing_fstat_leaks_no_descriptor(self) -> None:
        def stale(_: int) -> os.stat_result:
            raise OSError(errno.ESTALE, "Stale file handle")

        before = descriptors()
        patched = self.patch(os, "fstat", stale)
        with self.assertRaises((NotFound, OSError)):
            self.storage.open(b"a.txt")
        patched.restore()
        leaked = descriptors() - before
        for number in leaked:
            os.close(int(number))
        self.assertEqual(leaked, set())

    def test_size_is_that_of_the_file_that_is_read(self) -> None:
        def replaced(directory: int, name: bytes, flags: int) -> int:
            descriptor = self.opener(directory, name, flags)
            if not flags & os.O_PATH:
                self.put(b"other", b"other, and longer")
                os.rename(self.path(b"other"), self.path(name))
            return descriptor

        def grown(directory: int, name: bytes, flags: int) -> int:
            self.put(name, b"grown in between")
            return self.opener(directory, name, flags)

        name = b"sub/b.txt"
        self.assertEqual(self.read(LocalStorage(self.served, replaced), name), b"the b")
        self.assertEqual(self.read(self.storage, name), b"other, and longer")
        self.assertEqual(self.read(LocalStorage(self.served, grown), name), b"grown in between")

    @settings(
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.differing_executors],
    )
    @given(
        st.lists(
            st.sampled_from(
                [b"", b".", b"..", b"served", b"outside", b"secret", b"deep", b"c", b"\0", b"etc"]
                + [part for name in CONTENT for part in name.split(b"/")]
                + [*INSIDE_LINKS, *REFUSED_LINKS, b"sublink", b"passwd", b"x" * 256]
            )
            | st.binary(max_size=4),
            max_size=6,
        ).map(b"/".join)
    )
    def test_no_name_opens_a_file_outside(self, name: bytes) -> None:
        try:
            file = self.storage.open(name)
        except NotFound:
            self.assertNotIn(name, CONTENT)
            return
        with closing(file):
            real = os.readlink(b"/proc/self/fd/%d" % file.fileno())
            self.assertTrue(real.startswith(self.served + b"/"), (name, real))
            self.assertEqual(real, os.path.realpath(self.path(name)))
            self.assertTrue(stat.S_ISREG(os.fstat(file.fileno()).st_mode))


class BeneathTests(BothOpeners, ServedCase):
    """``openat2``."""

    opener = staticmethod(open_beneath)
    follows_links = True
    if choose_opener() is not open_beneath:
        skip = "no openat2 here"


class WalkTests(BothOpeners, ServedCase):
    """One component at a time."""

    opener = staticmethod(open_by_walk)
    follows_links = False


class DirectoryTests(ServedCase):
    def test_walk_is_chosen_where_openat2_does_not_work(self) -> None:
        def refuse(directory: int, name: bytes, flags: int) -> int:
            raise OSError(errno.ENOSYS, "Function not implemented")

        self.assertIs(choose_opener(refuse), open_by_walk)

    def test_served_path_may_be_a_link_that_is_replaced(self) -> None:
        current = os.path.join(self.top, b"current")
        os.symlink(b"served", current)
        storage = LocalStorage(os.fsdecode(current))
        storage.check()
        self.assertEqual(self.read(storage, b"a.txt"), b"the a")
        os.unlink(current)
        os.symlink(b"outside", current)
        self.assertEqual(self.read(storage, b"secret"), b"secret")

    def test_resource_errors_are_raised_and_other_errors_are_not_found(self) -> None:
        def failing(code: int) -> LocalStorage:
            def opener(directory: int, name: bytes, flags: int) -> int:
                raise OSError(code, os.strerror(code))

            return LocalStorage(self.served, opener)

        for code in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.EAGAIN):
            with self.assertRaises(OSError) as caught:
                failing(code).open(b"sub/b.txt")
            self.assertEqual(caught.exception.errno, code)
        for code in (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP, errno.EXDEV):
            self.assert_not_found(failing(code), b"sub/b.txt")

    def test_listing_of_many_names_is_sorted_as_a_whole(self) -> None:
        names = [b"%d" % number for number in range(5000)]
        for name in names:
            os.close(os.open(self.path(name), os.O_CREAT | os.O_WRONLY))
        listed = list(LocalStorage(self.served, open_by_walk).top_files().names)
        self.assertEqual(listed, sorted([*names, b"a.txt", b"b c"]))
