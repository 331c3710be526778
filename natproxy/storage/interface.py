"""What a storage is: the source of the file server's metadata, names and bytes.

A storage yields metadata and opens files. It has no part in the protocol: the file server
turns metadata into lines, and errors into codes.

A name is the path of a file or a directory below the top of the storage: bytes, components
between single slashes, none of them empty, ``.`` or ``..``, no NUL. The empty name is the top
directory itself. A storage checks names; they come from clients as they are.

Errors: `NotFound` if there is nothing to serve under a name, whatever the reason; ``OSError`` if
the storage fails (no descriptor or memory left, an I/O error, a service that cannot be reached),
so that it is not known what is under the name. In a listing, an entry that exists and cannot be
read is no error: it is marked as unread, and never left out, since clients remove what is not
listed.

Threads: if `Storage.blocking` is false, the file server calls `Storage.metadata`, `Storage.open`
and `OpenFile.is_racy` in the reactor's thread; else it calls the first two in other threads,
several at once. It calls the other methods of an `OpenFile` in the reactor's thread or in another
one, never two of them at the same time on one file, except `OpenFile.interrupt`. It calls
`Storage.entries`, `Storage.top_files` and `Storage.snapshots` in other threads, several at once.
These must not hold the interpreter lock for more than a few milliseconds in one call, or the
reactor stalls: see `in_runs`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, Protocol, TypeVar

from natproxy.metadata import Entry, Metadata

RUN = 4096
"""Names that are sorted, or joined, in one call: about a millisecond."""

Check = Callable[[], None]
"""Called now and then during long work; an exception that it raises ends the work."""

T = TypeVar("T")


def unchecked() -> None:
    """Do nothing: a `Check` that never ends the work."""


def in_runs(items: Iterable[T]) -> Iterator[list[T]]:
    """Return the items in lists of at most `RUN`, short enough for one call."""
    source = iter(items)
    return iter(lambda: list(islice(source, RUN)), [])


class NotFound(Exception):
    """There is nothing to serve under a name; clients do not learn why."""


class TooLarge(Exception):
    """A file is larger than the caller accepts."""


class Changing(Exception):
    """A file was modified each time that it was read."""


class Snapshot(NamedTuple):
    """One state of a file.

    :ivar metadata: of that state.
    :ivar data: all of its bytes.
    """

    metadata: Metadata
    data: bytes


Snapshots = Generator[Snapshot | NotFound | TooLarge | Changing | OSError, None, None]


class Step(NamedTuple):
    """One step of a listing.

    :ivar position: a later listing that has this value as ``after`` continues behind this step.
        ``None`` if no listing can continue here: the caller must take the next step. A position
        is greater than the one before, not smaller than the last entry's name, and smaller than
        the name of each later entry. It is at most one byte longer than a name.
    :ivar entries: files and directories in order; none if there is nothing to list. The name of
        each of them but the last is a position too.
    :ivar unread: true if a directory cannot be read whose entry comes before ``after``, and
        was perhaps listed without its mark. Such a step has neither entries nor position.
    """

    position: bytes | None
    entries: Sequence[Entry] = ()
    unread: bool = False


class TopFiles(NamedTuple):
    """The names of the files directly in the top directory.

    :ivar names: each name once, in ascending order of their bytes; can be read once.
    :ivar unread: names of entries that exist and whose type cannot be read, in that order.
    """

    names: Iterable[bytes]
    unread: tuple[bytes, ...]


class OpenFile(Protocol):
    """A file that is open for reading; a new file under the same name does not replace it."""

    @property
    def size(self) -> int:
        """The size when it was opened, in bytes."""
        ...

    @property
    def metadata(self) -> Metadata:
        """The metadata when it was opened."""
        ...

    @property
    def device(self) -> int:
        """A number of the device or service that is read from.

        Reads of one device share a number of threads: one that hangs leaves others alone.
        """
        ...

    @property
    def blocking(self) -> bool:
        """Whether `read_at` may wait for a disk or a network: then it is called in threads.

        Ignored if `fileno` returns a descriptor: then the page cache decides.
        """
        ...

    def fileno(self) -> int | None:
        """Return a descriptor for ``sendfile(2)``, or ``None``; it is valid until `close`."""
        ...

    def read_at(self, offset: int, size: int) -> bytes:
        """Return up to ``size`` bytes from an offset on: at least one, unless it is the end.

        :raises OSError: if they cannot be read.
        """
        ...

    def ready(self, offset: int) -> bool:
        """Return whether `read_at` would return bytes from an offset on without waiting.

        Called for a file that is `blocking`, in the reactor's thread.
        """
        ...

    def interrupt(self) -> None:
        """Let a `read_at` that waits in a thread fail soon: what it reads is no longer needed.

        Called at most once, in the reactor's thread.
        """
        ...

    def stored_sha256(self) -> str | None:
        """Return the SHA-256 of the whole file in hexadecimal, if the storage keeps it.

        Called in a thread, before the file is read for a digest.

        :raises OSError: if the storage fails.
        """
        ...

    def unchanged(self) -> bool:
        """Return whether the first `size` bytes are still those of the file that was opened.

        Growth is not a change: otherwise a log that is written to could never be sent. A new
        name, a removed name and another mode are not changes either.

        :raises OSError: if its metadata cannot be read.
        """
        ...

    @property
    def identity(self) -> str:
        """Changes whenever the content may have changed; of the file when it was opened.

        It identifies the content to this server. An etag, which servers of copies may share, can
        be weaker.
        """
        ...

    def current_identity(self) -> str:
        """Return the `identity` that the file has now.

        :raises OSError: if its metadata cannot be read.
        """
        ...

    def is_racy(self) -> bool:
        """Return whether the content may change again without a change of the `identity`.

        Call it right after opening. git calls such a file "racily clean": it was modified so
        recently that a further modification may leave its timestamps as they are.
        """
        ...

    def close(self) -> None:
        """Close the file. Further calls have no effect."""
        ...


class Storage(Protocol):
    """Files and directories to be served."""

    @property
    def blocking(self) -> bool:
        """Whether `metadata` and `open` may wait for a network: then they are called in threads."""
        ...

    def check(self) -> None:
        """Check that the storage can be listed; called before the server starts.

        :raises OSError: if it cannot.
        """
        ...

    def metadata(self, name: bytes) -> Metadata:
        """Return the metadata of a file or a directory, which need not be readable.

        :raises NotFound: if there is neither.
        :raises OSError: see the module.
        """
        ...

    def open(self, name: bytes) -> OpenFile:
        """Open a file; the caller closes it.

        :raises NotFound: if there is no file that can be read.
        :raises OSError: see the module.
        """
        ...

    def entries(
        self, name: bytes, depth: float, after: bytes, check: Check = unchecked
    ) -> Generator[Step, None, None]:
        """List the tree below a directory; or list a file, which is its own only entry.

        Entries come in ascending order of their full paths, compared byte by byte with the
        slashes included: ``a``, ``a-b``, ``a/x``, ``a0``. Each comes once. The directory
        itself is not an entry. An entry that appears or vanishes during the listing may be
        listed or not; one that exists all the time is listed.

        The work for one step is bounded, except for the scan of a directory. So a caller
        limits its work when it stops after some steps and later continues from the last
        position. Parts of the tree that lie before ``after`` as a whole are not read.

        An entry that exists and whose metadata cannot be read is of type `UNREAD`. A
        directory whose entries would be listed, and cannot be, is marked as unread. A
        directory that was listed without that mark and cannot be read any more when its
        entries are due ends the listing with an ``OSError``.

        :param depth: levels of directories, 1 or more, or ``math.inf``.
        :param after: a name, which need not exist, or a `Step.position`: what is listed is
            greater. Empty to begin.
        :param check: called for each entry, and during scans.
        :return: a generator that the caller closes; it holds descriptors until then. Every
            exception is raised by ``next``, and `NotFound` by the first call of it.
        :raises NotFound: if there is neither a file nor a directory that can be read.
        :raises OSError: see the module.
        """
        ...

    def snapshots(
        self, names: Sequence[bytes], largest: int, check: Check = unchecked
    ) -> Snapshots:
        """Read small files, each in one state.

        :param largest: bytes of a file that is read.
        :param check: called before each file.
        :return: a generator that the caller closes; it holds descriptors until then. For each
            name, in order, it yields a snapshot, or the exception with which reading it failed;
            `NotFound` and ``OSError`` as `open` raises them.
        """
        ...

    def top_files(self, check: Check = unchecked) -> TopFiles:
        """Return the names of the files directly in the top directory, without metadata.

        :param check: called for each entry.
        :raises OSError: if the top directory cannot be read.
        """
        ...


SNAPSHOT_TRIES = 4
"""Times that a file which is being modified is read for a snapshot."""


def snapshots_by_opening(
    open_file: Callable[[bytes], OpenFile],
    names: Sequence[bytes],
    largest: int,
    check: Check = unchecked,
) -> Snapshots:
    """Read small files for `Storage.snapshots`, by opening each as for any other use.

    :param open_file: as `Storage.open`.
    """
    for name in names:
        check()
        yield snapshot_by_opening(open_file, name, largest)


def snapshot_by_opening(
    open_file: Callable[[bytes], OpenFile], name: bytes, largest: int
) -> Snapshot | NotFound | TooLarge | Changing | OSError:
    """Read one file for `Storage.snapshots`; see `snapshots_by_opening`."""
    try:
        for _ in range(SNAPSHOT_TRIES):
            file = open_file(name)
            try:
                metadata = file.metadata
                if metadata.size > largest:
                    return TooLarge()
                data = b""
                while len(data) < metadata.size and (
                    piece := file.read_at(len(data), metadata.size - len(data))
                ):
                    data += piece
                if len(data) == metadata.size and file.current_identity() == file.identity:
                    return Snapshot(metadata, data)
            finally:
                file.close()
    except (NotFound, OSError) as error:
        return error
    return Changing()
