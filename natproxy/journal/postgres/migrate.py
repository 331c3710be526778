"""The schema of the database: numbered migrations, which ``natproxy journal migrate`` applies."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any

from natproxy.journal.postgres.connection import PostgresError, driver, errors

if TYPE_CHECKING:
    import psycopg

LOCK = 0x6E61747078
"""The advisory lock of a migration, and of what else changes tables."""

VERSIONS = (
    "create table if not exists natproxy.versions"
    " (version integer primary key, applied timestamptz not null default now())"
)


def migrations() -> dict[int, str]:
    """Return the statements of each migration by its number, in their order."""
    found = {
        int(file.name[:4]): file.read_text("utf-8")
        for file in files("natproxy.journal.postgres").joinpath("migrations").iterdir()
        if file.name.endswith(".sql")
    }
    return dict(sorted(found.items()))


def newest() -> int:
    """Return the version of the schema that this program uses."""
    return max(migrations())


def migrate(connection: psycopg.Connection[Any]) -> list[int]:
    """Apply the migrations that are missing; return their numbers.

    Each is applied as a whole. Others wait meanwhile.

    :raises PostgresError: if the schema is newer than the program, or a statement fails.
    """
    applied = []
    with errors():
        with connection.transaction():
            connection.execute("select pg_advisory_xact_lock(%s)", [LOCK])
            connection.execute("create schema if not exists natproxy")
            connection.execute(VERSIONS)
        for number, statements in migrations().items():
            with connection.transaction():
                connection.execute("select pg_advisory_xact_lock(%s)", [LOCK])
                if _refuse_newer(_version(connection)) >= number:
                    continue
                # Without parameters, psycopg sends several statements at once.
                connection.execute(statements.encode())
                connection.execute("insert into versions (version) values (%s)", [number])
            applied.append(number)
    return applied


def check_schema(connection: psycopg.Connection[Any]) -> None:
    """Refuse a database whose schema is not that of this program.

    :raises PostgresError: if it is older, newer, or missing.
    """
    psycopg = driver()
    with errors():
        try:
            version = _refuse_newer(_version(connection))
        except psycopg.errors.UndefinedTable:
            version = 0
    if version < newest():
        has = f"its schema has version {version}" if version else "it has no schema natproxy"
        raise PostgresError(
            f"the database is not ready: {has}, and this program needs version {newest()}; run"
            " natproxy journal migrate --to with the same URL"
        )


def _version(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute("select coalesce(max(version), 0) from natproxy.versions").fetchone()
    assert row is not None
    return int(row[0])


def _refuse_newer(version: int) -> int:
    if version > newest():
        raise PostgresError(
            f"the schema of the database has version {version}, and this program uses up to version"
            f" {newest()}; use a newer natproxy"
        )
    return version
