"""What the commands of one run share: settings, sessions, and how failures are reported."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence

from natproxy.cli.encoding import remote_name
from natproxy.cli.output import write_line
from natproxy.client.config import SETTINGS, load_client_config
from natproxy.client.context import Closing
from natproxy.client.errors import UsageError
from natproxy.client.url import Server, parse_path, parse_server

# Commands that use no server's connection need none of these.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from natproxy.client.authentication import Token
    from natproxy.client.blocking.session import Session
    from natproxy.client.retry import Retrier, RetryPolicy
    from natproxy.tls.options import TLSOptions


def configure(arguments: Namespace) -> Namespace:
    """Return parsed arguments with all settings of the client.

    Those that no option specifies are taken from the environment, from the user's file, or
    are defaults.

    :raises UsageError: if a setting of the environment or the file is wrong.
    """
    specified = {
        setting.field: getattr(arguments, setting.field)
        for setting in SETTINGS
        if hasattr(arguments, setting.field)
    }
    config = load_client_config(specified)
    settings = {setting.field: getattr(config, setting.field) for setting in SETTINGS}
    return Namespace(**{**vars(arguments), **settings}, tls_option=_tls_option(specified))


def _tls_option(specified: Mapping[str, object]) -> str:
    """Return an option that has an effect with TLS only; empty if none is specified."""
    options = (f"--{name}" for name in ("ca", "cert", "key", "insecure") if specified.get(name))
    return next(options, "")


def settings_of(arguments: Namespace) -> dict[str, object]:
    """Return the settings of the client in configured arguments."""
    settings = {setting.field: getattr(arguments, setting.field) for setting in SETTINGS}
    return {**settings, "tls_option": arguments.tls_option}


class Sessions(Closing):
    """The sessions of one run, one for each server: commands at the prompt share them.

    :ivar complain: writes an error message about one of several things, in one line.
    :ivar prompting: whether a prompt follows each command.
    :ivar directory: the directory on the server that paths at the prompt are relative to; ``None``
        on the command line, where they are below the served directory.
    """

    def __init__(self) -> None:
        self.complain: Callable[[str], object] = complain
        self.prompting = False
        self.directory: bytes | None = None
        self._sessions: dict[Server, Session] = {}

    def close(self) -> None:
        """Close all of them."""
        for session in self._sessions.values():
            session.close()

    def session(self, arguments: Namespace) -> Session:
        """Return the session with the server of ``--server``.

        :param arguments: see `configure`.
        :raises UsageError: if the server or a time-out is invalid.
        """
        return self._with(parse_server(arguments.server, arguments.tls), arguments)

    def targets(self, arguments: Namespace, paths: Sequence[str]) -> tuple[Session, list[bytes]]:
        """Return the session and the names of the files that a command's paths stand for.

        :param paths: on the server of ``--server``, or ``natproxy://HOST:PORT/PATH``.
        :raises UsageError: if one is invalid, or if they are on different servers.
        """
        from natproxy.client.requests import as_name

        servers = set()
        names = []
        for path in paths:
            server, path = parse_path(path, arguments.tls)
            name = remote_name(path)
            names.append(as_name(self.absolute(name) if server is None else name))
            if server is None:
                server = parse_server(arguments.server, arguments.tls)
            servers.add(server)
        if len(servers) > 1:
            raise UsageError("paths on different servers: one at a time")
        if not servers:
            return self.session(arguments), names
        return self._with(servers.pop(), arguments), names

    @property
    def at_prompt(self) -> bool:
        """Whether the commands are lines of the prompt, typed or piped in."""
        return self.directory is not None

    def absolute(self, path: bytes) -> bytes:
        """Return the path below the served directory that the path of an argument stands for."""
        if self.directory is not None:
            return resolve(path, self.directory)
        # A path may be written as one of a local file, such as "./-a": no name there is ".".
        return b"/".join(each for each in path.split(b"/") if each != b".")

    def _with(self, server: Server, arguments: Namespace) -> Session:
        from natproxy.client.blocking.session import Session
        from natproxy.client.retry import check_timeout

        check_timeout("--timeout", arguments.timeout)
        check_timeout("--connect-timeout", arguments.connect_timeout)
        session = self._sessions.get(server)
        if session is None:
            tls = tls_options(arguments) if server.tls else None
            if tls is None and arguments.tls_option:
                raise UsageError(
                    f"{arguments.tls_option} needs TLS: specify --tls, or write natproxys://"
                )
            token = token_of(arguments, server)
            session = self._sessions[server] = Session(server.address, tls=tls, token=token)
            if tls is not None and tls.insecure:
                self.complain(
                    f"{server.address}: the certificate is not checked (--insecure):"
                    " anyone in between can read and change everything"
                )
        session.timeout = arguments.timeout
        session.connect_timeout = arguments.connect_timeout
        return session


def tls_options(arguments: Namespace) -> TLSOptions:
    """Return how a server with TLS is verified, and what is shown to it.

    :param arguments: see `configure`.
    """
    from natproxy.tls.options import TLSOptions

    return TLSOptions(arguments.ca, arguments.cert, arguments.key, arguments.insecure)


def token_of(arguments: Namespace, server: Server) -> Token | None:
    """Return the token for a server; ``None`` if there is none.

    A token belongs to the server of ``--server``: a URL that names another one must not get it.

    :param arguments: see `configure`.
    :raises UsageError: if its file cannot be used.
    """
    if arguments.token is None and arguments.token_file is None:
        return None
    try:
        if parse_server(arguments.server, arguments.tls).address != server.address:
            return None
    except UsageError:
        # Paths that are URLs need no other server.
        return None
    from natproxy.client.authentication import read_token

    token: Token = arguments.token or read_token(arguments.token_file)
    return token.allowed(arguments.token_plain)


def resolve(path: bytes, directory: bytes) -> bytes:
    """Return the name of a path that is relative to a directory on a server.

    ``.`` and ``..`` are resolved here: no name on the server has them in it.

    :param path: below the served directory if it begins with a slash; else below ``directory``.
    """
    names: list[bytes] = []
    if not path.startswith(b"/") and directory:
        names = directory.split(b"/")
    for each in path.split(b"/"):
        if each == b"..":
            del names[-1:]
        elif each not in (b"", b"."):
            names.append(each)
    return b"/".join(names)


def retry_policy_of(arguments: Namespace) -> RetryPolicy:
    """Return how a command retries temporary failures.

    :param arguments: see `configure`.
    """
    from natproxy.client.retry import RETRY_FOR, RetryPolicy

    retry_for = arguments.retry_for
    if retry_for is None:
        retry_for = arguments.default_retry_for
    if retry_for is None:
        # Without a duration, --wait would not wait.
        retry_for = RETRY_FOR if arguments.wait else 0.0
    return RetryPolicy(retry_for, arguments.retries, arguments.wait)


def retrier_of(arguments: Namespace, session: Session, report: Callable[[str], object]) -> Retrier:
    """Return what retries the steps of a command.

    :param report: called with a message for each failure that is retried.
    """
    from natproxy.client.retry import Cancellation, Retrier

    return Retrier(session.retry_context, retry_policy_of(arguments), Cancellation(), report)


def complain(message: str) -> None:
    """Write an error message to standard error, in one line."""
    write_line(sys.stderr, f"natproxy: {message}")
