"""``get``, ``cat``, ``sync``, ``download``: files, brought here."""

from __future__ import annotations

import math
import os
import sys
from argparse import Namespace
from collections.abc import Sequence

from natproxy.cli.context import Sessions, retrier_of, retry_policy_of
from natproxy.cli.display import Display, display_for
from natproxy.cli.encoding import local_path, remote_name
from natproxy.cli.output import write_line
from natproxy.cli.sync_report import SyncReport
from natproxy.client.blocking.session import Session
from natproxy.client.errors import ClientError, LocalError, NotFound, UsageError
from natproxy.client.rate import RateLimit
from natproxy.client.requests import as_name
from natproxy.client.transfer.batch import download_all, download_and_count
from natproxy.client.transfer.deletion import delete, deletion_refusal
from natproxy.client.transfer.destination import Existing, destination_path
from natproxy.client.transfer.mirror import compare
from natproxy.client.transfer.output import WholeWriter
from natproxy.client.transfer.request import DownloadOptions, DownloadRequest, DownloadResult
from natproxy.client.transfer.stream import stream
from natproxy.client.transfer.tree import LocalTree
from natproxy.client.transfer.version1 import download_version1
from natproxy.protocol import FILE_NOT_FOUND, printable

CONNECTIONS = 64
"""At the same time, at most: each has a thread, a socket, and a megabyte to receive into."""


def get(options: Namespace, sessions: Sessions) -> int:
    """Fetch files."""
    session, names = sessions.targets(options, options.paths)
    if options.output == "-":
        shown = _display(options)
        return _to_stdout(session, names, _how(options, Existing.REFUSE), shown, sessions)
    existing = Existing.REFUSE
    if options.overwrite:
        existing = Existing.REPLACE
    elif options.no_clobber:
        existing = Existing.KEEP
    wanted = _wanted(names, options.output)
    with display_for(options.progress, options.quiet) as display:
        _note_version(session, options, display)
        display.expect(len(wanted), None)
        results = download_all(session, wanted, _how(options, existing), _jobs(options), display)
    return _report(results, options.quiet, sessions)


def cat(options: Namespace, sessions: Sessions) -> int:
    """Write files to standard output."""
    session, names = sessions.targets(options, options.paths)
    how = DownloadOptions(retry_policy=retry_policy_of(options))
    return _to_stdout(session, names, how, display_for("never", True), sessions)


def sync(options: Namespace, sessions: Sessions) -> int:
    """Make a directory here like one on the server."""
    if options.max_delete is not None and not options.delete:
        raise UsageError("--max-delete says how much --delete may delete: both are needed")
    remote = "" if options.remote == "." else options.remote
    session, (name,) = sessions.targets(options, [remote])
    limit = None if options.max_entries == math.inf else options.max_entries
    with (
        LocalTree(local_path(options.local)) as tree,
        display_for(options.progress, options.quiet) as display,
    ):
        retry = retrier_of(options, session, display.say)
        plan = compare(session, name, tree, options.delete, limit, retry)
        report = SyncReport(plan)
        if options.delete:
            report.refusal = deletion_refusal(
                plan.extra, plan.local_files, plan.source_files, options.max_delete
            )
        if not options.dry_run:
            plan.create_directories()
        display.expect(len(plan.downloads) + report.missing, plan.size)
        if not options.dry_run or options.progress == "json":
            report.show_missing(display)
        if not options.dry_run:
            how = _how(options, Existing.UPDATE)
            report.totals = download_and_count(session, plan.requests, how, _jobs(options), display)
            if report.refusal is None and not report.incomplete:
                report.deleted = delete(tree, plan.extra)
        display.report(report.facts())
    report.complain(sessions.complain, options.delete)
    if options.dry_run or options.quiet:
        report.complain_of_left_out(sessions.complain)
    if options.dry_run:
        report.say_plan(options.delete)
    elif not options.quiet:
        report.sum_up(options.delete)
    return report.exit_status


def download(options: Namespace, sessions: Sessions) -> int:
    """Fetch a file as version 1 does."""
    destination = None if options.destination is None else local_path(options.destination)
    try:
        path = download_version1(
            sessions.session(options), as_name(remote_name(options.name)), destination
        )
    except NotFound as error:
        # As the server said it: programs know these words.
        raise NotFound(FILE_NOT_FOUND) from error
    sys.stdout.write(f"saved {printable(path)} ({os.stat(path).st_size} bytes)\n")
    return 0


def _jobs(options: Namespace) -> int:
    """Give how many files to fetch at a time, so that all their segments aren't too many."""
    jobs: int = min(options.jobs, CONNECTIONS // options.segments)
    return max(1, jobs)


def _how(options: Namespace, existing: Existing) -> DownloadOptions:
    limit = RateLimit(options.limit_rate) if options.limit_rate else None
    return DownloadOptions(
        existing, options.verify, options.segments, limit, retry_policy_of(options)
    )


def _wanted(names: Sequence[bytes], output: str | None) -> list[DownloadRequest]:
    destination = None if output is None else local_path(output)
    if destination is not None and len(names) > 1 and not destination.endswith(b"/"):
        destination += b"/"
    wanted = [DownloadRequest(name, destination_path(name, destination)) for name in names]
    seen: dict[bytes, bytes] = {}
    for one in wanted:
        if one.path in seen:
            raise UsageError(
                f"{printable(seen[one.path])} and {printable(one.name)}"
                f" would both be saved as {printable(one.path)}"
            )
        seen[one.path] = one.name
    return wanted


def _note_version(session: Session, options: Namespace, display: Display) -> None:
    retry = retrier_of(options, session, display.say)
    if retry(lambda: session.version) < 2:
        display.say(f"{session.server} speaks version 1 only: whole files, and no resuming")


def _to_stdout(
    session: Session,
    names: Sequence[bytes],
    how: DownloadOptions,
    shown: Display,
    sessions: Sessions,
) -> int:
    sys.stdout.flush()
    output = sys.stdout.buffer
    # A program that calls this one may have put a raw file object there.
    write_whole = WholeWriter(output.write)
    last = b"\n"

    def write(piece: memoryview) -> None:
        nonlocal last
        try:
            write_whole(piece)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise LocalError(b"standard output", error) from error
        last = bytes(piece[-1:])

    with shown as display:
        display.expect(len(names), None)
        for name in names:
            stream(session, name, write, how, display)
        if sessions.prompting and sys.stdout.isatty() and last != b"\n":
            output.write(b"\n")
        output.flush()
    return 0


def _display(options: Namespace) -> Display:
    # Bars and bytes on the same terminal would be neither.
    progress = "never" if options.progress == "auto" and sys.stdout.isatty() else options.progress
    return display_for(progress, options.quiet)


def _report(
    results: Sequence[DownloadResult | ClientError], quiet: bool, sessions: Sessions
) -> int:
    """Say how each file ended; give the exit status of the first that failed."""
    status = 0
    for result in results:
        if isinstance(result, ClientError):
            sessions.complain(str(result))
            status = status or result.exit_status
        elif not quiet:
            path = printable(result.path)
            saved = f"saved {path} ({result.size} bytes)"
            write_line(sys.stderr, f"{path}: already there" if result.unchanged else saved)
    return status
