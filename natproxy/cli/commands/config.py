"""``natproxy config``: the settings of the client and the daemons, and of a daemon that runs."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from natproxy.cli.command import Command
from natproxy.cli.options import CONFIG_FILE, add_control_options, add_json_option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from natproxy.cli.context import Sessions

CLIENT = "client"
DAEMONS = ("proxy", "fileserver")


class Config(Command):
    """Shows the settings with their sources, checks them, or compares them with a daemon's."""

    name = "config"
    help = "show the settings and where each comes from, check them, or show what has changed"
    connects = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "action",
            choices=("show", "check", "diff"),
            help="show: print the settings as TOML; check: print a line for each error; diff: print"
            " what a reload of a daemon that runs would change, and what needs a restart",
        )
        parser.add_argument(
            "--daemon",
            choices=(*DAEMONS, CLIENT),
            help="whose settings (default: all; with --config, those of both daemons)",
        )
        parser.add_argument(
            "--config",
            metavar=CONFIG_FILE,
            help="TOML file to read (default: $NATPROXY_PROXY_CONFIG,"
            " $NATPROXY_FILESERVER_CONFIG and the user's file)",
        )
        parser.add_argument(
            "--as",
            dest="decision",
            metavar=("CLIENT", "COMMAND"),
            nargs=2,
            help="check: print which rule decides about a command such as 'GET a.txt' of a client"
            " such as client=10.0.0.5,identity=alice, and why; the exit status is 0 if it is"
            " allowed, 1 if it is denied",
        )
        add_json_option(parser)
        add_control_options(parser)

    def run(self, arguments: Namespace, sessions: Sessions) -> int:

        file: str | None = arguments.config
        if arguments.action != "check":
            _refuse(arguments, {"decision": "--as"}, "is for config check")
        if arguments.action == "diff":
            return _diff(arguments, sessions)
        if arguments.decision is not None:
            return _decide(arguments, sessions)
        _refuse(arguments, {"json": "--json"}, "is for config check --as and for config diff")
        _refuse(
            arguments,
            {"control": "--control", "name": "--name"},
            "selects the daemon of config diff; --daemon selects whose settings",
        )
        if arguments.daemon is not None:
            selected: tuple[str, ...] = (arguments.daemon,)
        else:
            selected = (CLIENT, *DAEMONS) if file is None else DAEMONS
        if arguments.action == "show":
            texts, errors = _show(selected, file)
            sys.stdout.write("\n".join(texts))
        else:
            errors = _check(selected, file)
        for error in dict.fromkeys(errors):
            sessions.complain(error)
        return 2 if errors else 0


def _decide(arguments: Namespace, sessions: Sessions) -> int:
    """Write what the rules decide about a command; return the exit status.

    :raises UsageError: if an argument is missing, or has no meaning here.
    """
    from natproxy.client.errors import UsageError

    if arguments.daemon == CLIENT:
        raise UsageError("config check --as: the client has no rules; use --daemon=proxy")
    from natproxy.daemon.rule_report import report_decision
    from natproxy.settings import SettingError

    daemon = arguments.daemon or DAEMONS[0]
    who, line = arguments.decision
    try:
        report = report_decision(daemon, who, line, file=arguments.config)
    except SettingError as error:
        for message in error.messages:
            sessions.complain(message)
        return 2
    except ValueError as error:
        raise UsageError(str(error)) from error
    if arguments.json:
        from json import dumps

        sys.stdout.write(dumps(report._asdict()) + "\n")
    else:
        sys.stdout.write("".join(f"{line}\n" for line in report.lines()))
    return 0 if report.allowed else 1


def _refuse(arguments: Namespace, options: dict[str, str], reason: str) -> None:
    """Refuse options of another action.

    :param options: by the names of their arguments.
    :raises UsageError: if there is one.
    """
    for argument, option in options.items():
        if getattr(arguments, argument) not in (None, False):
            from natproxy.client.errors import UsageError

            raise UsageError(f"config {arguments.action}: {option} {reason}")


def _diff(arguments: Namespace, sessions: Sessions) -> int:
    """Write what a reload would change; return the exit status.

    :raises UsageError: if there is an option for settings that the daemon has not been started
        with.
    """
    _refuse(
        arguments,
        {"config": "--config", "daemon": "--daemon"},
        "cannot be used: a daemon that runs reads the sources that it was started with;"
        " --name selects the daemon",
    )
    from natproxy.cli.translations.reload import reload

    return reload(arguments, sessions.complain, dry_run=True)


def _show(selected: tuple[str, ...], file: str | None) -> tuple[list[str], list[str]]:
    """Return the settings of each that has no error, and the errors of the others."""
    from natproxy.client.config import show_client_config
    from natproxy.settings import SettingError

    texts: list[str] = []
    errors: list[str] = []
    for name in selected:
        try:
            if name == CLIENT:
                text = show_client_config(file=file)
            else:
                from natproxy.daemon.config_report import show_config

                text = show_config(name, file=file)
        except SettingError as error:
            errors += error.messages
        else:
            texts.append(text if len(selected) == 1 or name != CLIENT else f"# client\n{text}")
    return texts, errors


def _check(selected: tuple[str, ...], file: str | None) -> list[str]:
    """Return all errors."""
    from natproxy.client.config import check_client_config

    errors: list[str] = []
    for name in selected:
        if name == CLIENT:
            errors += check_client_config(file=file)
        else:
            from twisted.internet import reactor

            from natproxy.daemon.config_report import check_config

            errors += check_config(reactor, name, file=file)
    return errors
