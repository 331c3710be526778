"""The commands of the program, one module each, in the order in which ``--help`` lists them."""

from __future__ import annotations

from natproxy.cli.command import Command
from natproxy.cli.commands.cat import Cat
from natproxy.cli.commands.completion import Completion
from natproxy.cli.commands.config import Config
from natproxy.cli.commands.doctor import Doctor
from natproxy.cli.commands.download import Download
from natproxy.cli.commands.drain import Drain
from natproxy.cli.commands.events import Events
from natproxy.cli.commands.export import Export
from natproxy.cli.commands.get import Get
from natproxy.cli.commands.hash import Hash
from natproxy.cli.commands.history import History
from natproxy.cli.commands.journal import Journal
from natproxy.cli.commands.kill import Kill
from natproxy.cli.commands.list import List
from natproxy.cli.commands.ls import Ls
from natproxy.cli.commands.reconcile import Reconcile
from natproxy.cli.commands.reload import Reload
from natproxy.cli.commands.shell import Shell
from natproxy.cli.commands.stat import Stat
from natproxy.cli.commands.status import Status
from natproxy.cli.commands.sync import Sync
from natproxy.cli.commands.table import Table
from natproxy.cli.commands.token import Token
from natproxy.cli.commands.top import Top
from natproxy.cli.commands.up import Up
from natproxy.cli.commands.upstreams import Upstreams
from natproxy.cli.commands.whois import Whois

CLIENT_COMMANDS: tuple[Command, ...] = (
    Ls(),
    Stat(),
    Hash(),
    List(),
    Get(),
    Cat(),
    Sync(),
    Download(),
)
"""The commands that the prompt has, too."""

OBSERVING_COMMANDS: tuple[Command, ...] = (
    Table(),
    Top(),
    Events(),
    Whois(),
    History(),
    Export(),
    Kill(),
    Upstreams(),
    Drain(),
    Reload(),
    Status(),
    Reconcile(),
)
"""The commands that use the control socket of a daemon."""

COMMANDS: tuple[Command, ...] = (
    *CLIENT_COMMANDS,
    Shell(CLIENT_COMMANDS),
    Up(),
    *OBSERVING_COMMANDS,
    Journal(),
    Config(),
    Token(),
    Doctor(),
    Completion(),
)
"""All commands of the program."""
