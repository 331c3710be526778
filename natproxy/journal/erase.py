"""Erases a client from a journal: its address, its names of files, and what mentions it."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from natproxy.journal.catalogue import Catalogue
from natproxy.journal.contents import Directory
from natproxy.journal.directory import JournalError
from natproxy.journal.files import SUFFIX
from natproxy.journal.rows import ERASED
from natproxy.journal.salvage import read_spools
from natproxy.journal.segment import NewerSchema, NotASegment, check_version, connect, transaction
from natproxy.journal.space import reason_of
from natproxy.journal.spool_format import spools
from natproxy.journal.summary import describe
from natproxy.journal.validity import DAMAGE
from natproxy.records.filter.hosts import parse_network

ERASING = ".erasing"
"""Added to the name of the copy in which a client is erased."""


class Erasure(NamedTuple):
    """What was erased from one segment.

    :ivar segment: name of its file.
    :ivar rows: number of its entries in which the client was erased.
    :ivar failure: why nothing was erased in it, and what to do; ``None`` if that succeeded.
    """

    segment: str
    rows: int
    failure: str | None = None


def erase_client(directory: str, client: str) -> list[Erasure]:
    """Erase a client from all segments of a journal.

    Its entries remain, without host, port, identity, name of the file and reason, and are marked as
    erased, so that the result of a search is `natproxy.records.whois.UNKNOWN`. The time of the
    first to the last one is a gap ``erased`` of the segment. In the names and reasons of others,
    the address is replaced. The bytes are overwritten: the address is in the file only where it is
    that of a proxy or of an upstream, too.

    What a daemon that was killed has left in its spool is put into its segment before.

    A segment that a daemon is writing cannot be changed: stop the daemon, or repeat this when the
    segment is sealed, which is after an hour at most.

    :param client: an address, a network such as ``10.0.0.0/24``, or another host as it is shown.
    :return: the segments that had the client, and those that could not be changed.
    :raises JournalError: if the directory cannot be read.
    """
    client_of = _Client(client)
    Directory(directory).files()
    found = []
    try:
        read_spools(directory)
    except (OSError, sqlite3.Error) as error:
        found += [
            Erasure(
                os.path.basename(path),
                0,
                f"it may have the client, and cannot be put into its segment: {reason_of(error)}",
            )
            for path, _, _ in spools(directory)
        ]
    files = Directory(directory).files()
    for copy in Path(directory).glob(f"*{SUFFIX}{ERASING}*"):
        # An earlier erasure was interrupted.
        with suppress(OSError):
            copy.unlink()
    for name in files:
        erasure = (
            _erase(Path(directory), name, client_of)
            if name.endswith(SUFFIX)
            else Erasure(name, 0, "the segment is damaged, and may have the client; delete it")
        )
        if erasure.rows or erasure.failure is not None:
            found.append(erasure)
    return found


class _Client:
    """Who is erased.

    :param client: an address, a network, or ``unix`` with a path, as it is shown.
    :ivar matches: returns whether a host is meant.
    :raises JournalError: if it is malformed.
    """

    def __init__(self, client: str) -> None:
        self.matches: Callable[[str], bool]
        self._text: str | None = None
        try:
            self.matches = parse_network(client).contains
        except ValueError as error:
            if not client.startswith("unix"):
                raise JournalError(
                    f"cannot erase {client!r}: {error}; an address, a network such as 10.0.0.0/24"
                    " or the path of a UNIX socket as it is shown (unix/run/…) is needed"
                ) from None
            self.matches = client.__eq__
            self._text = client

    def reason_without(self, reason: str) -> str:
        """Return a reason without the client."""
        if self._text is None:
            return ADDRESS.sub(self._replaced, reason)
        return ERASED if self._text in reason else reason

    def name_without(self, name: str) -> str:
        """Return the encoded name of a file without an address of the client."""
        if self._text is not None:
            return name
        # Several names are separated by spaces; what becomes of one is not that of the others.
        return " ".join(map(self._word_without, name.split(" ")))

    def _word_without(self, name: str) -> str:
        without = ADDRESS.sub(self._replaced, name)
        decoded = unquote(without, errors="replace")
        # An address with encoded characters takes the name with it.
        return without if ADDRESS.sub(self._replaced, decoded) == decoded else ""

    def _replaced(self, match: re.Match[str]) -> str:
        # A full stop or a colon may follow it.
        text = match[0].rstrip(".")
        for host in (text, text.rstrip(":"), text.strip(":")):
            with suppress(ValueError):
                if self.matches(host):
                    return match[0].replace(host, ERASED)
        return match[0]

    def prepare(self, connection: sqlite3.Connection) -> None:
        """Add the functions that `MENTIONS` uses."""
        for function in (self.reason_without, self.name_without):
            connection.create_function(function.__name__, 1, function, deterministic=True)


MENTIONS = (
    ("entries", "reason", "reason is not null"),
    ("actions", "reason", "reason is not null"),
    # Most names cannot contain an address.
    (
        "entries",
        "name",
        "(name glob '*[0-9].*[0-9].*[0-9].*[0-9]*' or name glob '*:*'"
        " or name glob '*%[23][aAeE]*')",
    ),
)
"""Where texts may mention a client: table, column, and a condition on what is searched."""

ADDRESS = re.compile(
    r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?!\d)|[0-9A-Fa-f]*:[0-9A-Fa-f:]+(?:(?:\.\d{1,3}){3})?"
)
"""What may be an address in a text."""


def _erase(directory: Path, name: str, client: _Client) -> Erasure:
    path = directory / name
    try:
        with closing(connect(str(path))) as connection:
            connection.execute("pragma busy_timeout = 0")
            check_version(connection, str(path))
            client.prepare(connection)
            if not _hosts(connection, client) and not _mentioned(connection):
                return Erasure(name, 0)
            sealed = connection.execute("select 1 from meta where key = 'sealed'").fetchone()
            if sealed is None:
                # The connection of a daemon that is writing it keeps the segment in WAL mode.
                connection.execute("pragma journal_mode = delete")
                rows = _overwrite(connection, client)
                connection.execute("pragma journal_mode = wal")
                return Erasure(name, rows)
        return Erasure(name, _replace(directory, name, client))
    except FileNotFoundError:
        return Erasure(name, 0)
    except NotASegment:
        return Erasure(name, 0)
    except (*DAMAGE, sqlite3.Error, OSError, JournalError, NewerSchema, KeyError) as error:
        if not path.exists():
            # Retention has deleted it.
            return Erasure(name, 0)
        if "locked" in str(error):
            return Erasure(
                name,
                0,
                "a daemon is writing the segment; stop it, or repeat this when the segment is"
                " sealed, which is after an hour at most",
            )
        return Erasure(name, 0, f"cannot change the segment: {error}")


def _replace(directory: Path, name: str, client: _Client) -> int:
    """Replace a sealed segment, which others may have open as immutable."""
    path, copy = directory / name, directory / (name + ERASING)
    try:
        # Whatever the umask, other users can never read it.
        os.close(os.open(copy, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600))
        shutil.copy(path, copy)
        with closing(connect(str(copy))) as connection:
            rows = _overwrite(connection, client)
            info = describe(connection, name)
        with open(copy, "rb+") as file:
            os.fsync(file.fileno())
        if not path.exists():
            # Retention has deleted it.
            return 0
        owner = path.stat()
        with suppress(PermissionError):
            os.chown(copy, owner.st_uid, owner.st_gid)
        os.replace(copy, path)
    finally:
        copy.unlink(missing_ok=True)
    with suppress(sqlite3.Error, OSError):
        # A catalogue that disagrees is not used.
        Catalogue(str(directory)).add(info)
    return rows


def _hosts(connection: sqlite3.Connection, client: _Client) -> list[int]:
    """Return the numbers of the hosts of the client that entries have as their client."""
    return [
        number
        for number, host in connection.execute("select id, host from hosts").fetchall()
        if client.matches(host)
        and connection.execute(
            "select 1 from entries where client = ? limit 1", (number,)
        ).fetchone()
        is not None
    ]


def _mentioned(connection: sqlite3.Connection) -> bool:
    """Return whether a text mentions the client."""
    return any(
        connection.execute(
            f"select 1 from {table} where {condition} and {column}_without({column}) <> {column}"  # noqa: S608
            " limit 1"
        ).fetchone()
        for table, column, condition in MENTIONS
    )


def _overwrite(connection: sqlite3.Connection, client: _Client) -> int:
    """Erase a client in a segment; return the number of entries that change."""
    client.prepare(connection)
    # What is deleted is overwritten with zeros.
    connection.execute("pragma secure_delete = on")
    with transaction(connection):
        hosts = _hosts(connection, client)
        selected = f"client in ({', '.join('?' * len(hosts))})"
        gap = connection.execute(
            f"select min(started), max(coalesce(ended, started)) from entries where {selected}",  # noqa: S608
            hosts,
        ).fetchone()
        connection.execute("insert or ignore into hosts (host) values (?)", (ERASED,))
        ((erased,),) = connection.execute("select id from hosts where host = ?", (ERASED,))
        changes = "client = ?, client_port = 0, identity = null, name = '', reason = null"
        rows = connection.execute(
            f"update entries set {changes} where {selected}",  # noqa: S608
            (erased, *hosts),
        ).rowcount
        connection.execute(
            "delete from hosts where id not in (select client from entries union"
            " select nat from entries where nat is not null union"
            " select upstream from entries where upstream is not null)"
        )
        for table, column, condition in MENTIONS:
            changed = connection.execute(
                f"update {table} set {column} = {column}_without({column})"  # noqa: S608
                f" where {condition} and {column}_without({column}) <> {column}"
            ).rowcount
            rows += changed if table == "entries" else 0
        if hosts:
            connection.execute("insert into gaps values (?, ?, null, null, ?)", (*gap, ERASED))
    connection.execute("vacuum")
    return rows
