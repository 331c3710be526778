"""Downloads as the options describe them, and the reports about their results."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence

from natproxy.cli.context import retry_policy_of
from natproxy.cli.display import Display, display_for
from natproxy.cli.encoding import local_path
from natproxy.cli.output import write_line
from natproxy.client.blocking.session import Session
from natproxy.client.errors import ClientError, LocalError, UsageError
from natproxy.client.rate import RateLimit
from natproxy.client.transfer.destination import Existing, destination_path
from natproxy.client.transfer.output import WholeWriter
from natproxy.client.transfer.request import DownloadOptions, DownloadRequest, DownloadResult
from natproxy.client.transfer.stream import stream
from natproxy.protocol import printable

CONNECTIONS = 64
"""Connections of one command at most: each has a thread, a socket, and a buffer of one megabyte."""
MOST_NAMED = 100
"""Files of one command that are reported by name when they have been saved; more, by number."""


def jobs_of(arguments: Namespace) -> int:
    """Return how many files to download at the same time, within `CONNECTIONS` in all."""
    jobs: int = min(arguments.jobs, CONNECTIONS // arguments.segments)
    return max(1, jobs)


def download_options_of(arguments: Namespace, existing: Existing) -> DownloadOptions:
    """Return the options of downloads.

    :param existing: what to do about files that exist here.
    """
    limit = RateLimit(arguments.limit_rate) if arguments.limit_rate else None
    return DownloadOptions(
        existing,
        arguments.verify,
        arguments.segments,
        limit,
        retry_policy_of(arguments),
        durable=not arguments.no_fsync,
    )


def destinations(names: Sequence[bytes], output: str | None) -> list[DownloadRequest]:
    """Return a request for each file, with the path to save it to.

    :param output: the value of ``--output``.
    :raises UsageError: if two files would be saved under the same path, or several in what is
        not a directory.
    """
    destination = None if output is None else local_path(output)
    # An empty destination is refused below; with a slash it would be the root directory.
    if destination and len(names) > 1 and not destination.endswith(b"/"):
        if not os.path.isdir(destination):
            shown = printable(destination)
            hint = "" if os.path.lexists(destination) else f"; {shown}/ creates it"
            raise UsageError(f"--output {shown}: not a directory, which several files need{hint}")
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


def require_space_if_known(requests: Sequence[DownloadRequest]) -> int | None:
    """Check that there is space for files whose sizes are known; return the bytes of all.

    :return: ``None`` if the size of a file is not known yet: each download checks its own then.
    :raises LocalError: if there is less space.
    """
    sizes = [each.metadata.size for each in requests if each.metadata is not None]
    if not sizes:
        return None
    from natproxy.client.transfer.volumes import require_space_for

    require_space_for(requests, sum(sizes), os.path.dirname(requests[0].path) or b".")
    return sum(sizes) if len(sizes) == len(requests) else None


def report_version(
    session: Session, results: Sequence[DownloadResult | ClientError], display: Display
) -> None:
    """Show a message if the files came from a server that has version 1 of the protocol only.

    The first download has determined the version.
    """
    complete = any(isinstance(result, DownloadResult) for result in results)
    if complete and session.version < 2:
        display.show_message(
            f"{session.server} speaks version 1 only: whole files, and no resuming"
        )


def write_to_output(
    session: Session,
    names: Sequence[bytes],
    options: DownloadOptions,
    display: Display,
    prompting: bool,
) -> int:
    """Write files to standard output, one after the other, and return the exit status.

    :param prompting: whether a prompt follows: on a terminal, it starts on a new line.
    :raises ClientError: if a file fails; those after it are not written.
    """
    sys.stdout.flush()
    output = sys.stdout.buffer
    # A program that calls `main` may have put a raw file object there.
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

    with display:
        display.expect(len(names), None)
        for name in names:
            stream(session, name, write, options, display)
        if prompting and sys.stdout.isatty() and last != b"\n":
            output.write(b"\n")
        output.flush()
    return 0


def display_beside_output(arguments: Namespace) -> Display:
    """Return the display for files that are written to standard output.

    On a terminal, bars would be mixed with the content of the files.
    """
    progress = arguments.progress
    if progress == "auto" and sys.stdout.isatty():
        progress = "never"
    return display_for(progress, arguments.quiet)


def report_results(
    results: Sequence[DownloadResult | ClientError], quiet: bool, complain: Callable[[str], object]
) -> int:
    """Report the result of each file; return the exit status of the first that failed.

    More than `MOST_NAMED` files that are there are reported together.

    :param complain: called with a line for each file that failed.
    """
    status = 0
    present: list[DownloadResult] = []
    for result in results:
        if isinstance(result, ClientError):
            complain(str(result))
            status = status or result.exit_status
        else:
            present.append(result)
    if not quiet:
        if len(present) > MOST_NAMED:
            write_line(sys.stderr, _summary_of(present))
        else:
            for result in present:
                write_line(sys.stderr, _line_of(result))
    return status


def _line_of(result: DownloadResult) -> str:
    path = printable(result.path)
    return f"{path}: already there" if result.unchanged else f"saved {path} ({result.size} bytes)"


def _summary_of(results: Sequence[DownloadResult]) -> str:
    sizes = [result.size for result in results if not result.unchanged]
    summary = f"saved {len(sizes)} files ({sum(sizes)} bytes)"
    unchanged = len(results) - len(sizes)
    return f"{summary}, {unchanged} already there" if unchanged else summary
