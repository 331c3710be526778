"""Downloads of whole directories by ``get -r``, and which of their entries are downloaded."""

from __future__ import annotations

import errno
import math
from argparse import Namespace
from contextlib import closing
from typing import NamedTuple

from natproxy.cli.collection import rare_collections
from natproxy.cli.context import Sessions, retrier_of
from natproxy.cli.display import display_for
from natproxy.cli.downloads import destinations, jobs_of, report_results
from natproxy.cli.encoding import local_path, remote_name
from natproxy.cli.records import Replies
from natproxy.cli.sync_report import SyncReport
from natproxy.cli.targets import read_lines, targets_of
from natproxy.client.blocking.session import Session
from natproxy.client.errors import (
    LocalError,
    ServerError,
    Unavailable,
    Unsupported,
    UsageError,
)
from natproxy.client.listing import MOST_ENTRIES
from natproxy.client.requests import Stat
from natproxy.client.transfer.batch import download_all, download_and_count
from natproxy.client.transfer.listed import ListedDownloads
from natproxy.client.transfer.mirror import MirrorRules, compare_pages, plan_for
from natproxy.client.transfer.pattern import Pattern
from natproxy.client.transfer.request import DownloadOptions, DownloadRequest
from natproxy.client.transfer.selection import Rule, Selection
from natproxy.client.transfer.tree import LocalTree
from natproxy.client.url import parse_path
from natproxy.protocol import DIRECTORY, Metadata


class Directory(NamedTuple):
    """A directory to download.

    :ivar name: on the server.
    :ivar root: the local path for its content.
    """

    name: bytes
    root: bytes


class TreeDownloads:
    """Downloads the files and directories of a command line.

    :param arguments: those of ``get -r``, configured.
    """

    def __init__(self, arguments: Namespace, sessions: Sessions) -> None:
        self._arguments = arguments
        self._sessions = sessions
        self._rules = MirrorRules(False, limit_of(arguments), selection_of(arguments, sessions))
        self._files: list[DownloadRequest] = []
        self._directories: list[Directory] = []
        self._place = b"."
        self._status = 0

    def run(self, options: DownloadOptions) -> int:
        """Download everything; return the exit status of the first error."""
        arguments, complain = self._arguments, self._sessions.complain
        session = self._find()
        jobs = jobs_of(arguments)
        reports: list[SyncReport] = []
        with (
            rare_collections(),
            display_for(arguments.progress, arguments.quiet) as display,
        ):
            retry = retrier_of(arguments, session, display.show_message)
            listed = ListedDownloads(self._place, display.expect, self._files)
            for number, directory in enumerate(self._directories, 1):
                more = number < len(self._directories)
                try:
                    # There may be many: one of them is open at a time.
                    with LocalTree(directory.root) as tree:
                        plan = plan_for(directory.name, tree, self._rules)
                        report = SyncReport(plan)
                        with closing(compare_pages(session, plan, self._rules, retry)) as pages:
                            requests = listed.add(plan, pages, more)
                            report.totals = download_and_count(
                                session, requests, options, jobs, display
                            )
                        report.show_missing(display)
                        report.show_obstacles(display, plan.create_directories(options.durable))
                except (Unsupported, Unavailable):
                    raise
                except (ServerError, LocalError, UsageError) as error:
                    if isinstance(error, LocalError) and error.errno == errno.ENOSPC:
                        raise
                    self._sessions.complain(str(error))
                    self._status = self._status or error.exit_status
                    listed.show(more)
                else:
                    reports.append(report)
                    display.report(report.facts())
            if self._files:
                listed.require_space()
                listed.show()
            results = download_all(session, self._files, options, jobs, display)
        for report in reports:
            report.complain(complain, delete=False)
            if arguments.quiet:
                report.complain_of_skipped(complain)
            else:
                report.write_summary(delete=False, place=report.plan.tree.root)
            self._status = self._status or report.exit_status
        status = report_results(results, arguments.quiet, complain)
        return self._status or status

    def _find(self) -> Session:
        """Find out which names are those of directories; return the session."""
        arguments, sessions = self._arguments, self._sessions
        paths: list[str] = arguments.paths
        contents = [path for path in paths if is_content(path)]
        others = [path for path in paths if not is_content(path)]
        session, inner = sessions.targets(arguments, [_without_dot(path) for path in contents])
        names: list[bytes] = []
        found: dict[bytes, Metadata] = {}
        if others or arguments.input_file is not None or not paths:
            arguments = Namespace(**{**vars(arguments), "paths": others})
            session, names, listed = targets_of(arguments, sessions, directories=True)
            found.update(listed)
        output = arguments.output
        if output is not None and not output.endswith("/"):
            output += "/" * bool(output)
        root = b"." if output is None else local_path(output)
        self._place = root
        self._directories = [Directory(name, root) for name in inner]
        retry = retrier_of(arguments, session, sessions.complain)
        unknown = [name for name in names if name not in found]
        replies = Replies(unknown, session, Stat, session.stat, retry, sessions.complain)
        found.update(replies)
        self._status = replies.exit_status
        for request in destinations([name for name in names if name in found], output):
            metadata = found[request.name]
            if metadata.type == DIRECTORY:
                self._directories.append(Directory(request.name, request.path))
            else:
                self._files.append(request._replace(metadata=metadata))
        return session


def is_content(path: str) -> bool:
    """Return whether a path stands for what is in a directory, and not for the directory.

    As for ``cp -r``, these are paths that end with ``.`` or ``..``; the served directory has no
    name of its own, either.
    """
    return parse_path(path)[1].rstrip("/").rpartition("/")[2] in ("", ".", "..")


def _without_dot(path: str) -> str:
    stripped = path.rstrip("/")
    return stripped[:-1] if stripped.endswith("/.") else path


def selection_of(arguments: Namespace, sessions: Sessions) -> Selection | None:
    """Return the selection that the options describe; ``None`` if there is none.

    :raises UsageError: if a pattern is malformed.
    :raises LocalError: if a file with patterns cannot be read.
    """
    rules = []
    for include, from_file, text in arguments.rules or ():
        patterns = read_lines(text, sessions) if from_file else [text]
        rules += [Rule(include, Pattern(remote_name(pattern))) for pattern in patterns]
    return Selection(rules) if rules else None


def limit_of(arguments: Namespace) -> int | None:
    """Return how many entries of a directory are accepted; ``None`` for any number."""
    limit: float | None = arguments.max_entries
    if limit is None:
        return MOST_ENTRIES
    return None if limit == math.inf else int(limit)
