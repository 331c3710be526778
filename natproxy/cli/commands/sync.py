"""``natproxy sync``: a local copy of a directory on the server."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from natproxy.cli.command import Command
from natproxy.cli.options import (
    LOCAL_TARGET,
    REMOTE_DIRECTORY,
    add_retry_options,
    add_server_options,
    add_transfer_options,
    add_tree_options,
    nonempty,
    number_or_inf,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from natproxy.cli.context import Sessions
    from natproxy.client.transfer.selection import Equality


class Sync(Command):
    """Downloads what is new or changed in a directory, and deletes the rest if requested."""

    name = "sync"
    help = "download what is new or changed in a directory"

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_server_options(parser)
        add_transfer_options(parser)
        add_retry_options(parser, 1800.0)
        parser.add_argument(
            "remote",
            metavar=REMOTE_DIRECTORY,
            help="directory on the server, . for the served directory",
        )
        parser.add_argument(
            "local",
            metavar=LOCAL_TARGET,
            type=nonempty,
            help="local directory, created if missing",
        )
        parser.add_argument(
            "--delete",
            action="store_true",
            help="delete local files and directories that the server does not have",
        )
        parser.add_argument(
            "--max-delete",
            metavar="N",
            type=number_or_inf(0),
            help="most files and directories to delete, inf for no limit"
            " (default: half of the files; none if the server lists no files)",
        )
        add_tree_options(parser)
        equality = parser.add_mutually_exclusive_group()
        equality.add_argument(
            "--checksum",
            action="store_true",
            help="compare the SHA-256 digests of files with the same size: the server reads them",
        )
        equality.add_argument(
            "--size-only", action="store_true", help="compare sizes, and no times"
        )
        parser.add_argument(
            "-n",
            "--dry-run",
            action="store_true",
            help="print what would be done, and change nothing",
        )

    def run(self, arguments: Namespace, sessions: Sessions) -> int:
        from natproxy.cli.context import retrier_of
        from natproxy.cli.display import display_for
        from natproxy.cli.downloads import download_options_of, jobs_of
        from natproxy.cli.encoding import local_path
        from natproxy.cli.sync_report import SyncReport
        from natproxy.cli.trees import limit_of, selection_of
        from natproxy.client.errors import UsageError
        from natproxy.client.transfer.batch import download_and_count
        from natproxy.client.transfer.deletion import delete, deletion_refusal
        from natproxy.client.transfer.destination import Existing
        from natproxy.client.transfer.mirror import compare
        from natproxy.client.transfer.tree import LocalTree
        from natproxy.client.transfer.volumes import require_space_for

        if arguments.max_delete is not None and not arguments.delete:
            raise UsageError("--max-delete limits --delete: both are needed")
        remote = "" if arguments.remote == "." else arguments.remote
        session, (name,) = sessions.targets(arguments, [remote])
        limit = limit_of(arguments)
        selection = selection_of(arguments, sessions)
        equality = _equality(arguments)
        dry_run = arguments.dry_run
        with (
            LocalTree(local_path(arguments.local)) as tree,
            display_for(arguments.progress, arguments.quiet) as display,
        ):
            retry = retrier_of(arguments, session, display.show_message)
            plan = compare(session, name, tree, arguments.delete, limit, retry, selection, equality)
            report = SyncReport(plan)
            if arguments.delete:
                report.refusal = deletion_refusal(
                    plan.extra, plan.local_files, plan.source_files, arguments.max_delete
                )
            if not dry_run:
                require_space_for(plan.requests, plan.size, tree.root)
                plan.check_directories()
            display.expect(len(plan.downloads) + report.missing, plan.size)
            if not dry_run or arguments.progress == "json":
                report.show_missing(display)
            if not dry_run:
                existing = Existing.REPLACE if plan.replaces else Existing.UPDATE
                options = download_options_of(arguments, existing)
                report.totals = download_and_count(
                    session, plan.requests, options, jobs_of(arguments), display
                )
                report.show_obstacles(display, plan.create_directories(options.durable))
                if report.refusal is None and not report.incomplete:
                    report.deleted = delete(tree, plan.extra)
            display.report(report.facts())
        report.complain(sessions.complain, arguments.delete)
        if dry_run or arguments.quiet:
            report.complain_of_skipped(sessions.complain)
        if dry_run:
            report.write_plan(arguments.delete)
        elif not arguments.quiet:
            report.write_summary(arguments.delete)
        return report.exit_status


def _equality(arguments: Namespace) -> Equality:
    from natproxy.client.transfer.selection import Equality

    if arguments.checksum:
        return Equality.CHECKSUM
    return Equality.SIZE_ONLY if arguments.size_only else Equality.SIZE_AND_TIME
