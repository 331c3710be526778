"""Finds the control socket of a daemon, and the journals of daemons that do not run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from natproxy.client.control.daemon import Daemon
from natproxy.client.control.http import connect
from natproxy.client.errors import CannotConnect, ClientError, NoDaemon, UsageError
from natproxy.protocol import printable
from natproxy.records.places import (
    NONE,
    journal_candidates,
    journals_in,
    socket_candidates,
    sockets_in,
)

VARIABLE = "NATPROXY_CONTROL"
"""The environment variable that names the path of a control socket."""

NOUNS = {"proxy": "proxy", "fileserver": "file server"}
"""What the kinds of daemons are called."""

TIMEOUT = 2.0
"""Seconds to wait for each of the daemons that are considered."""


class Place(NamedTuple):
    """A control socket, or the directory of a journal.

    :ivar name: of the daemon.
    :ivar path: absolute.
    """

    name: str
    path: str


class Search:
    """The places in which a user's command line looks.

    :param environ: environment variables; by default, those of the process.
    :param uid: the effective user's number; by default, that of the process.
    """

    def __init__(self, environ: Mapping[str, str] | None = None, uid: int | None = None) -> None:
        self._environ = os.environ if environ is None else environ
        self._uid = os.geteuid() if uid is None else uid
        self.directories = socket_candidates(self._environ, self._uid)

    def daemon(
        self, control: str | None = None, name: str | None = None, kind: str | None = None
    ) -> Daemon:
        """Return the daemon that the options select, else the one that runs.

        :param control: path of its socket.
        :param name: its name.
        :param kind: ``proxy`` or ``fileserver``: only those of this kind are considered, unless
            ``control`` or the environment names the path.
        :raises UsageError: if the options contradict each other, or several daemons run.
        :raises NoDaemon: if none runs, or only daemons of another kind.
        :raises CannotConnect: if those that run belong to other users.
        """
        path = self.path_of(control, name)
        if path is not None:
            return Daemon(path)
        found = self.running(name)
        if kind is not None:
            found = self._of_kind(found, kind, name)
        if len(found) > 1:
            raise UsageError(f"several daemons run: {_listed(found)}")
        return Daemon(found[0].path)

    def path_of(self, control: str | None, name: str | None) -> str | None:
        """Return the path of the socket that an option or the environment names, or ``None``.

        :raises UsageError: if the options contradict each other.
        """
        if control is not None and name is not None:
            raise UsageError("--control and --name exclude each other: a socket has one name")
        path = control
        if control is None and name is None:
            path = self._environ.get(VARIABLE) or None
        if path == NONE:
            option = VARIABLE if control is None else "--control"
            raise UsageError(f"{option}: the path of a control socket is needed, not '{NONE}'")
        return path

    def running(self, name: str | None = None) -> list[Place]:
        """Return the daemons that run, one at least; stale sockets are skipped.

        :param name: return only those with this name.
        :raises NoDaemon: if none runs.
        :raises CannotConnect: if those that run belong to other users.
        """
        found = []
        refused = None
        for place in self.sockets():
            if name is None or place.name == name:
                try:
                    connect(place.path, TIMEOUT).close()
                except NoDaemon:
                    continue
                except CannotConnect as error:
                    refused = refused or error
                    continue
                found.append(place)
        if found:
            return found
        if refused is not None:
            raise refused
        raise self._none(name)

    def sockets(self) -> Iterator[Place]:
        """Yield the sockets in all directories, stale ones included."""
        for directory in self.directories:
            for name, path in sockets_in(directory, self._uid):
                yield Place(name, path)

    def journals(self, name: str | None = None) -> list[Place]:
        """Return the directories of journals, of daemons that run and of others.

        :param name: return only those of a daemon of this name.
        """
        return [
            Place(each, path)
            for directory in journal_candidates(self._environ, self._uid)
            for each, path in journals_in(directory)
            if name is None or each == name
        ]

    def _of_kind(self, found: list[Place], kind: str, name: str | None) -> list[Place]:
        """Return the daemons of a kind, else those that fail to reply.

        :raises NoDaemon: if all are of another kind.
        """
        kinds = [(each, kind_of(each)) for each in found]
        for wanted in (kind, None):
            matching = [each for each, its in kinds if its == wanted]
            if matching:
                return matching
        (first, other), *rest = kinds
        what = NOUNS.get(str(other), "another daemon")
        if name is not None:
            raise NoDaemon(f"{first.name} is a {what}: the name of a {NOUNS[kind]} is needed")
        names = ", ".join([first.name, *(each.name for each, _ in rest)])
        runs = f"{names} is a {what}" if not rest else f"{names} are {what}s"
        raise NoDaemon(f"no {NOUNS[kind]} runs: {runs}; --control names the socket of another")

    def _none(self, name: str | None) -> NoDaemon:
        where = ", ".join(printable(os.fsencode(each)) for each in self.directories)
        if name is None:
            return NoDaemon(
                f"no daemon runs: no control socket in {where}; 'natproxy up' starts one,"
                " and --control names a socket elsewhere, such as that of another user"
            )
        try:
            others = f"; these run: {', '.join(each.name for each in self.running())}"
        except CannotConnect:
            others = ""
        return NoDaemon(
            f"no daemon with the name {printable(os.fsencode(name))!r} runs: no such control socket"
            f" in {where}{others}"
        )


def kind_of(place: Place) -> str | None:
    """Return whether a daemon is a ``proxy`` or a ``fileserver``; ``None`` if it fails to reply."""
    try:
        return str(Daemon(place.path, TIMEOUT).status().get("kind"))
    except ClientError:
        return None


def _listed(found: list[Place]) -> str:
    """Return the names of daemons, and how to select one of them."""
    names = [each.name for each in found]
    if len(set(names)) == len(names):
        return f"{', '.join(names)}; --name selects one"
    return f"{', '.join(each.path for each in found)}; --control selects one"
