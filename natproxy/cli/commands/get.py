"""``natproxy get``: files, saved here."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from natproxy.cli.command import Command
from natproxy.cli.options import (
    LOCAL_FILE,
    REMOTE_FILE,
    add_input_options,
    add_retry_options,
    add_server_options,
    add_transfer_options,
    add_tree_options,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from natproxy.cli.context import Sessions
    from natproxy.client.transfer.destination import Existing


class Get(Command):
    """Downloads files, several at a time, and resumes interrupted downloads."""

    name = "get"
    help = "download files; resume interrupted downloads"

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_server_options(parser)
        add_transfer_options(parser)
        add_retry_options(parser, 1800.0)
        add_input_options(parser)
        parser.add_argument(
            "paths",
            metavar=REMOTE_FILE,
            nargs="*",
            help="file, or a pattern; with -r, also a directory",
        )
        parser.add_argument(
            "-r",
            "--recursive",
            action="store_true",
            help="download directories, with all that is in them; --output is a directory",
        )
        add_tree_options(parser)
        parser.add_argument(
            "-o",
            "--output",
            metavar=LOCAL_FILE,
            help="file or directory to save to, - for standard output (default: .)",
        )
        existing = parser.add_mutually_exclusive_group()
        existing.add_argument("--overwrite", action="store_true", help="replace existing files")
        existing.add_argument("--no-clobber", action="store_true", help="skip existing files")

    def run(self, arguments: Namespace, sessions: Sessions) -> int:
        from natproxy.cli.display import display_for
        from natproxy.cli.downloads import (
            destinations,
            display_beside_output,
            download_options_of,
            jobs_of,
            report_results,
            report_version,
            require_space_if_known,
            write_to_output,
        )
        from natproxy.cli.targets import targets_of
        from natproxy.client.errors import UsageError
        from natproxy.client.transfer.batch import download_all

        options = download_options_of(arguments, _existing(arguments))
        if arguments.recursive:
            if arguments.output == "-":
                raise UsageError("-r saves directories: --output - is not one")
            from natproxy.cli.trees import TreeDownloads

            return TreeDownloads(arguments, sessions).run(options)
        if arguments.rules or arguments.max_entries is not None:
            raise UsageError("--include, --exclude and --max-entries are for directories: with -r")
        session, names, metadata = targets_of(arguments, sessions)
        if arguments.output == "-":
            display = display_beside_output(arguments)
            return write_to_output(session, names, options, display, sessions.prompting)
        wanted = [
            each._replace(metadata=metadata.get(each.name))
            for each in destinations(names, arguments.output)
        ]
        size = require_space_if_known(wanted)
        with display_for(arguments.progress, arguments.quiet) as display:
            display.expect(len(wanted), size)
            results = download_all(session, wanted, options, jobs_of(arguments), display)
            report_version(session, results, display)
        return report_results(results, arguments.quiet, sessions.complain)


def _existing(arguments: Namespace) -> Existing:
    from natproxy.client.transfer.destination import Existing

    if arguments.overwrite:
        return Existing.REPLACE
    return Existing.KEEP if arguments.no_clobber else Existing.REFUSE
