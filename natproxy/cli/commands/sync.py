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
        from contextlib import closing

        from natproxy.cli.collection import rare_collections
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
        from natproxy.client.transfer.listed import ListedDownloads
        from natproxy.client.transfer.mirror import MirrorRules, compare_pages, plan_for
        from natproxy.client.transfer.tree import LocalTree

        if arguments.max_delete is not None and not arguments.delete:
            raise UsageError("--max-delete limits --delete: both are needed")
        remote = "" if arguments.remote == "." else arguments.remote
        session, (name,) = sessions.targets(arguments, [remote])
        rules = MirrorRules(
            arguments.delete,
            limit_of(arguments),
            selection_of(arguments, sessions),
            _equality(arguments),
        )
        dry_run = arguments.dry_run
        with (
            rare_collections(),
            LocalTree(local_path(arguments.local)) as tree,
            display_for(arguments.progress, arguments.quiet) as display,
        ):
            retry = retrier_of(arguments, session, display.show_message)
            plan = plan_for(name, tree, rules)
            report = SyncReport(plan)
            existing = Existing.REPLACE if plan.replaces else Existing.UPDATE
            options = download_options_of(arguments, existing)
            with closing(compare_pages(session, plan, rules, retry)) as pages:
                if dry_run:
                    for _ in pages:
                        pass
                    display.expect(len(plan.downloads) + plan.missing, plan.size)
                else:
                    # Pages are compared as they arrive, while files of earlier ones are received.
                    requests = ListedDownloads(tree.root, display.expect).add(plan, pages)
                    report.totals = download_and_count(
                        session, requests, options, jobs_of(arguments), display
                    )
            if arguments.delete:
                report.refusal = deletion_refusal(
                    plan.extra, plan.local_files, plan.source_files, arguments.max_delete
                )
            if not dry_run or arguments.progress == "json":
                report.show_missing(display)
            if not dry_run:
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
