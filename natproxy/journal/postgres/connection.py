"""Connections to the database of a fleet's journal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from natproxy.extras import missing
from natproxy.journal.directory import JournalError

if TYPE_CHECKING:
    import psycopg

CONNECT = 10
"""Seconds for a connection, by default."""

SILENCE = {
    "connect_timeout": str(CONNECT),
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
}
"""Defaults of libpq's parameters: a server that is silent for half a minute is away."""

APPLICATION = "natproxy"


class PostgresError(JournalError):
    """The database cannot be used, and trying again does not help."""


class DatabaseAway(PostgresError):
    """The database cannot be reached, or has ended the connection: try again later."""


def driver() -> Any:
    """Return the module ``psycopg``.

    :raises PostgresError: if it is not installed.
    """
    try:
        import psycopg
    except ImportError as error:
        # The package may be there, and the library that it loads not.
        message = missing("a journal in PostgreSQL", "psycopg 3", "postgres")
        raise PostgresError(f"{message} ({error})") from None
    return psycopg


def parameters(url: str) -> dict[str, Any]:
    """Return the parameters of libpq that are in a URL.

    :raises PostgresError: if it is malformed. The message does not contain the URL, which may have
        a password.
    """
    psycopg = driver()
    try:
        found: dict[str, Any] = psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.Error:
        raise PostgresError(
            "the URL of the database is malformed; it is such as"
            " postgresql://USER@HOST:5432/DATABASE, and special characters in it are"
            " percent-encoded"
        ) from None
    # libpq takes what follows the first @ for the host, and shows it in its messages.
    if "@" in str(found.get("host", "")):
        raise PostgresError(
            "the URL of the database has two @: percent-encode the one in the password as %40"
        )
    return found


def shown(url: str) -> str:
    """Return a URL of a database for people, without a password.

    :raises PostgresError: if it is malformed.
    """
    found = parameters(url)
    user = f"{found['user']}@" if "user" in found else ""
    port = f":{found['port']}" if "port" in found else ""
    return f"postgresql://{user}{found.get('host', '')}{port}/{found.get('dbname', '')}"


def connect(url: str) -> psycopg.Connection[Any]:
    """Connect to a database; statements are committed one by one, but in a ``transaction``.

    The password is that of the URL, of ``$PGPASSWORD`` or of the file of passwords.

    :raises DatabaseAway: if it cannot be reached.
    :raises PostgresError: if the URL is malformed, or there is no psycopg.
    """
    settings = {**SILENCE, "application_name": APPLICATION, **parameters(url)}
    connect: Callable[..., psycopg.Connection[Any]] = driver().connect
    with errors():
        connection = connect(**settings, autocommit=True)
        try:
            connection.execute("set search_path to natproxy")
        except BaseException:
            connection.close()
            raise
    return connection


@contextmanager
def errors() -> Iterator[None]:
    """Raise `PostgresError` in place of an exception of psycopg."""
    psycopg = driver()
    try:
        yield
    except psycopg.OperationalError as error:
        raise DatabaseAway(unreachable(reason(error))) from None
    except psycopg.Error as error:
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            raise PostgresError(
                f"PostgreSQL: {reason(error)}; the account needs rights on the schema natproxy:"
                " see docs/journal.md"
            ) from None
        raise PostgresError(f"PostgreSQL: {reason(error)}") from None


def unreachable(text: str) -> str:
    """Return the message for a failure to connect: a server that refuses is not away.

    :param text: of libpq, in one line.
    """
    _, refused, why = text.partition("FATAL:")
    if refused:
        return f"PostgreSQL refused the connection: {why.strip()}"
    if "no password supplied" in text:
        return (
            "PostgreSQL refused the connection: it requires a password; set $PGPASSWORD, or add a"
            " line to ~/.pgpass"
        )
    return f"PostgreSQL is away: {text}"


def reason(error: Exception) -> str:
    """Return the text of an exception of psycopg in one line, without the hints of libpq."""
    diagnostics = getattr(error, "diag", None)
    text = getattr(diagnostics, "message_primary", None) or str(error)
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "; ".join(line for line in lines if line and not line.endswith("?")) or "no reason"
