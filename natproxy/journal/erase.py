"""Erases a client from a journal: its address, its names of files, and what mentions it."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

from natproxy.journal.catalogue import Catalogue
from natproxy.journal.contents import Directory
from natproxy.journal.directory import JournalError
from natproxy.journal.reader import ERASED
from natproxy.journal.schema import SUFFIX
from natproxy.journal.segment import check_version, connect, describe, transaction
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
    erased, so that the result of a search is `UNKNOWN`. The time of the first to the
    last one is a gap ``erased`` of the segment. The bytes are overwritten: the address is in the
    file only where it is that of a proxy or of an upstream, too.

    A segment that a daemon is writing cannot be changed: stop the daemon, or repeat this when the
    segment is sealed, which is after an hour at most.

    :param client: an address, a network such as ``10.0.0.0/24``, or another host as it is shown.
    :return: the segments that had the client, and those that could not be changed.
    :raises JournalError: if the directory cannot be read.
    """
    matches = _matcher(client)
    found = []
    for name in Directory(directory).files():
        if name.endswith(SUFFIX):
            erasure = _erase(Path(directory), name, matches)
            if erasure.rows or erasure.failure is not None:
                found.append(erasure)
    return found


def _matcher(client: str) -> Callable[[str], bool]:
    """Return a function that returns whether a host is meant."""
    try:
        network = parse_network(client)
    except ValueError as error:
        if not client.startswith("unix"):
            raise JournalError(
                f"cannot erase {client!r}: {error}; an address, a network such as 10.0.0.0/24 or"
                " the path of a UNIX socket as it is shown (unix/run/…) is needed"
            ) from None
        return lambda host: host == client
    return network.contains


def _erase(directory: Path, name: str, matches: Callable[[str], bool]) -> Erasure:
    path = directory / name
    try:
        with closing(connect(str(path))) as connection:
            connection.execute("pragma busy_timeout = 0")
            check_version(connection, str(path))
            if not _hosts(connection, matches):
                return Erasure(name, 0)
            sealed = connection.execute("select 1 from meta where key = 'sealed'").fetchone()
            if sealed is None:
                # The connection of a daemon that is writing it keeps the segment in WAL mode.
                connection.execute("pragma journal_mode = delete")
                rows = _overwrite(connection, matches)
                connection.execute("pragma journal_mode = wal")
                return Erasure(name, rows)
        return Erasure(name, _replace(directory, name, matches))
    except FileNotFoundError:
        return Erasure(name, 0)
    except (sqlite3.Error, OSError, JournalError) as error:
        if "locked" in str(error):
            return Erasure(
                name,
                0,
                "a daemon is writing the segment; stop it, or repeat this when the segment is"
                " sealed, which is after an hour at most",
            )
        return Erasure(name, 0, f"cannot change the segment: {error}")


def _replace(directory: Path, name: str, matches: Callable[[str], bool]) -> int:
    """Replace a sealed segment, which others may have open as immutable."""
    path, copy = directory / name, directory / (name + ERASING)
    try:
        shutil.copy(path, copy)
        with closing(connect(str(copy))) as connection:
            rows = _overwrite(connection, matches)
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


def _hosts(connection: sqlite3.Connection, matches: Callable[[str], bool]) -> list[int]:
    """Return the numbers of the hosts of the client that entries have as their client."""
    return [
        number
        for number, host in connection.execute("select id, host from hosts").fetchall()
        if matches(host)
        and connection.execute(
            "select 1 from entries where client = ? limit 1", (number,)
        ).fetchone()
        is not None
    ]


def _overwrite(connection: sqlite3.Connection, matches: Callable[[str], bool]) -> int:
    """Erase a client in a segment; return the number of its entries."""
    # What is deleted is overwritten with zeros.
    connection.execute("pragma secure_delete = on")
    with transaction(connection):
        hosts = _hosts(connection, matches)
        selected = f"client in ({', '.join('?' * len(hosts))})"
        texts = [
            host
            for number, host in connection.execute("select id, host from hosts")
            if number in hosts
        ]
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
        for seq, reason in connection.execute(
            "select seq, reason from actions where reason is not null"
        ).fetchall():
            if any(text in reason for text in texts):
                connection.execute("update actions set reason = ? where seq = ?", (ERASED, seq))
        connection.execute("insert into gaps values (?, ?, null, null, ?)", (*gap, ERASED))
    connection.execute("vacuum")
    return rows
