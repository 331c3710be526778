"""Requests: what a client sends, and how each reply is parsed. No I/O.

A session of either API, blocking or Deferred, carries them out. What spans several requests
is a generator of `Steps`. `WireError` is raised for a reply that is well-formed but does not
match its command.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

from natproxy.client.errors import (
    ClientError,
    ConnectionBroken,
    Forbidden,
    NotFound,
    Unavailable,
    UsageError,
)
from natproxy.protocol import (
    BAD_GATEWAY,
    DIRECTORY,
    FILE,
    FILE_NOT_FOUND,
    FORBIDDEN,
    LARGEST_PACK,
    ROOT,
    UNAVAILABLE,
    Arguments,
    Digest,
    Header,
    ListingNames,
    Metadata,
    PackRecord,
    Range,
    WireError,
    grouped_names,
    parse_digest,
    parse_metadata,
    parse_pack,
    parse_range,
    printable,
)

SHORTEST_SILENCE = 1.0
"""Seconds of silence after which the server is assumed to be computing a digest."""

LONGEST_DIGEST = 3600.0
"""Seconds for which ``HASH`` is repeated when the only outcome is silence."""

T = TypeVar("T")


def name_bytes(name: str | bytes) -> bytes:
    """Return a remote name as the bytes that are sent: text is UTF-8 in every locale.

    A byte that is not UTF-8 is a lone surrogate, U+DC80 to U+DCFF (``surrogateescape``).

    :raises NotFound: for any other surrogate, which represents no bytes.
    """
    if isinstance(name, bytes):
        return name
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise NotFound(f"{ascii(name)[1:-1]}: {FILE_NOT_FOUND}") from error


def name_text(name: bytes) -> str:
    """Return a remote name as text; `name_bytes` is the inverse."""
    return name.decode("utf-8", "surrogateescape")


def as_name(name: str | bytes) -> bytes:
    """Return a remote name as bytes, without leading and trailing slashes; see `name_bytes`."""
    return name_bytes(name).strip(b"/")


class Request(ABC, Generic[T]):
    """A command, and the parser of its reply.

    A session calls `begin` with the header, `feed` with each piece of the body, and `finish`;
    it stops as soon as `satisfied` is true. A request can be carried out again: `begin`
    discards what an earlier reply has left.

    :cvar word: the verb.
    :cvar purpose: what a server of version 1 cannot do, for messages; empty if version 1 has
        the verb.
    :cvar optional: whether a server of version 2, or a proxy before it, may lack the verb.
    :cvar bounded: whether the time-out limits the whole reply instead of each piece.
    :ivar header: of the reply; ``None`` before `begin`.
    :ivar satisfied: whether the result is complete although the reply may not be.
    """

    word: ClassVar[bytes]
    purpose: ClassVar[str] = ""
    optional: ClassVar[bool] = False
    bounded: ClassVar[bool] = False

    def __init__(self, arguments: Arguments | None = None) -> None:
        self.arguments = arguments or Arguments()
        self.header: Header | None = None
        self.satisfied = False
        self._body = bytearray()
        self._largest: int | None = None

    def begin(self, header: Header, largest: int | None = None) -> None:
        """Check the header of the reply.

        :param largest: bytes of the body that may be held in memory; ``None`` for any number.
        :raises WireError: if it does not match the command.
        :raises UsageError: if it announces more than ``largest`` bytes.
        """
        self.header = header
        self.satisfied = False
        self._body = bytearray()
        self._largest = largest
        self.accept(header)
        self._check_size(header.size)

    def feed(self, data: bytes) -> None:
        """Take a piece of the body.

        :raises UsageError: if the body exceeds the size that may be held in memory.
        """
        self._body += data
        self._check_size(len(self._body))

    def finish(self) -> T:
        """Return the result, once the reply is complete or the request `satisfied`.

        :raises WireError: if the reply does not match the command.
        """
        assert self.header is not None
        return self.parse(self.header, bytes(self._body))

    def accept(self, header: Header) -> None:  # by default, any header is accepted
        """Check the header before the body is received; see `begin`."""

    @abstractmethod
    def parse(self, header: Header, body: bytes) -> T:
        """Return the result of a complete reply."""

    def _check_size(self, size: int) -> None:
        if self._largest is not None and size > self._largest:
            raise UsageError(f"a reply of more than {self._largest} bytes is not held in memory")


Steps: TypeAlias = Generator[Request[Any], Any, T]
"""Yields requests, receives the result of each or has its `ClientError` raised; returns a `T`."""


class ListNames(Request[list[bytes]]):
    """``LIST``: the names of the files in the top directory."""

    word = b"LIST"

    def parse(self, header: Header, body: bytes) -> list[bytes]:
        """Return the names."""
        return [*ListingNames().feed(body)]


class Probe(Request[None]):
    """``LIST``, sent to check that a server replies: the header of the reply suffices."""

    word = b"LIST"

    def accept(self, header: Header) -> None:
        """Accept any header; the body is not needed."""
        self.satisfied = True

    def parse(self, header: Header, body: bytes) -> None:
        """Return nothing."""


class Stat(Request[Metadata]):
    """``STAT``: the metadata of a file or a directory."""

    word = b"STAT"
    purpose = "report a file's size and time"

    def __init__(self, name: str | bytes) -> None:
        super().__init__(Arguments(as_name(name)))

    def parse(self, header: Header, body: bytes) -> Metadata:
        """Return the metadata."""
        return parse_metadata(header.words)


class Hash(Request[Digest]):
    """``HASH``: the SHA-256 of a file, or of a part of it; see `digest_steps`."""

    word = b"HASH"
    purpose = "compute digests"

    def __init__(self, name: str | bytes, offset: int = 0, length: int | None = None) -> None:
        super().__init__(Arguments(as_name(name), offset=offset, length=length))

    def parse(self, header: Header, body: bytes) -> Digest:
        """Return the digest."""
        return parse_digest(header.words)


class Get(Request[bytes]):
    """``GET``: a part of a file.

    :ivar part: the range that the server sends, once `begin` has accepted the header.
    """

    word = b"GET"
    purpose = "send a part of a file"
    part: Range

    def __init__(
        self,
        name: str | bytes,
        offset: int = 0,
        length: int | None = None,
        if_match: str | None = None,
    ) -> None:
        super().__init__(Arguments(as_name(name), offset, length, if_match))

    def accept(self, header: Header) -> None:
        """Parse the range and compare it with the requested one.

        :raises WireError: if it is malformed or another one, or of another version of the file.
        """
        part = parse_range(header.size, header.words)
        wanted = self.arguments
        rest = part.metadata.size - wanted.offset
        length = rest if wanted.length is None else min(rest, wanted.length)
        if (part.offset, part.length) != (wanted.offset, length):
            raise WireError("another part of the file than was requested")
        if wanted.if_match is not None and part.metadata.etag != wanted.if_match:
            raise WireError("another file than was requested")
        self.part = part

    def parse(self, header: Header, body: bytes) -> bytes:
        """Return the bytes."""
        return body


class Pack(Request[list[PackRecord]]):
    """``PACK``: several small files, or the first of them; see `grouped_names`.

    :param names: of the files. A file that cannot be sent in a pack has a record with a code:
        `TOO_LARGE` if ``GET`` has to be used.
    """

    word = b"PACK"
    purpose = "send several files at once"
    optional = True

    def __init__(self, names: Iterable[str | bytes]) -> None:
        super().__init__(Arguments(names=tuple(map(_packed_name, names))))

    def accept(self, header: Header) -> None:
        """Check that the files may be held in memory.

        :raises WireError: if they exceed `LARGEST_PACK`.
        """
        if header.size > LARGEST_PACK:
            raise WireError(f"a pack of {header.size} bytes")

    def parse(self, header: Header, body: bytes) -> list[PackRecord]:
        """Return the records of the first names, one at least, with views of the body."""
        return parse_pack(body, self.arguments.names)


class GetWhole(Request[bytes]):
    """``DOWNLOAD``: a whole file, as version 1 sends it."""

    word = b"DOWNLOAD"

    def __init__(self, name: str | bytes) -> None:
        super().__init__(Arguments(name_bytes(name)))

    def parse(self, header: Header, body: bytes) -> bytes:
        """Return the bytes."""
        return body


def pack_steps(names: Iterable[str | bytes]) -> Steps[list[PackRecord]]:
    """Request several small files, by as many commands as are needed.

    :return: a record for each name, in order; the data are ``bytes``. A name that a rule denies
        has the code `FORBIDDEN`.
    :raises Forbidden: if the command is denied whatever the names.
    :raises UsageError: if a single name was passed, which would be taken apart.
    """
    if isinstance(names, (str, bytes)):
        raise UsageError("several names are needed, as a list")
    records: list[PackRecord] = []
    for rest in grouped_names((_packed_name(name), 0) for name in names):
        denied: set[bytes] = set()
        while rest:
            wanted = [name for name in rest if name not in denied]
            try:
                received: list[PackRecord] = (yield Pack(wanted)) if wanted else []
            except Forbidden as error:
                # One name denies the whole command: each such reply excludes one more.
                if error.denied is None or error.denied not in wanted:
                    raise
                denied.add(error.denied)
                continue
            # A view would keep the whole reply in memory.
            following = iter([record._replace(data=bytes(record.data)) for record in received])
            for name in rest:
                excluded = PackRecord(name, None, b"", FORBIDDEN) if name in denied else None
                record = excluded or next(following, None)
                if record is None:
                    break
                records.append(record)
                rest = rest[1:]
    return records


def _packed_name(name: str | bytes) -> bytes:
    stripped = as_name(name)
    return b"" if stripped == ROOT else stripped


def digest_steps(request: Hash, timeout: float, seconds: Callable[[], float]) -> Steps[Digest]:
    """Request a digest until it has been computed.

    If computing takes longer than the server, or a proxy, may be silent, ``HASH`` is repeated
    as long as the server replies to ``STAT``; it resumes the computation.

    :param timeout: seconds that silence inside a reply may last.
    :param seconds: returns the time.
    :raises UsageError: if the name is that of a directory.
    """
    end = seconds() + LONGEST_DIGEST
    silence = min(SHORTEST_SILENCE, timeout / 2)
    name = request.arguments.name
    while True:
        began = seconds()
        try:
            digest: Digest = yield request
            return digest
        except NotFound:
            yield from _refuse_directory(name)
            raise
        except ClientError as error:
            # Only silence is handled here. The caller retries other temporary failures.
            now = seconds()
            if (
                not may_be_computing(error)
                or now >= end
                or now - began < silence
                or not (yield from _is_alive(name))
            ):
                raise


def _is_alive(name: bytes) -> Steps[bool]:
    """Return whether a server that is silent about a digest replies to another command."""
    try:
        yield Stat(name)
    except ClientError as error:
        return not error.passing
    return True


def _refuse_directory(name: bytes) -> Steps[None]:
    """Check whether a name that is not found as a file is that of a directory.

    The server's own error for it is 404, the same as for a missing file.

    :raises UsageError: if it is.
    """
    try:
        metadata: Metadata = yield Stat(name)
    except ClientError:
        return
    if metadata.type == DIRECTORY:
        require_file(name, metadata)


def may_be_computing(error: ClientError) -> bool:
    """Return whether a digest may still be computed after this failure.

    That is the case after silence, and if the server is busy. `BAD_GATEWAY` and `UNAVAILABLE`
    mean that the server, or the file server behind the proxy, has given up.
    """
    if isinstance(error, Unavailable):
        return error.code not in (BAD_GATEWAY, UNAVAILABLE)
    return isinstance(error, ConnectionBroken)


def require_file(name: bytes, metadata: Metadata) -> Metadata:
    """Return metadata if it is that of a file.

    :raises UsageError: if it is that of a directory.
    """
    if metadata.type != FILE:
        raise UsageError(f"{printable(name or ROOT)}: is a directory")
    return metadata
