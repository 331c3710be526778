"""The commands of the program, one module each, in the order in which ``--help`` lists them."""

from __future__ import annotations

from natproxy.cli.command import Command
from natproxy.cli.commands.cat import Cat
from natproxy.cli.commands.completion import Completion
from natproxy.cli.commands.config import Config
from natproxy.cli.commands.doctor import Doctor
from natproxy.cli.commands.download import Download
from natproxy.cli.commands.get import Get
from natproxy.cli.commands.hash import Hash
from natproxy.cli.commands.list import List
from natproxy.cli.commands.ls import Ls
from natproxy.cli.commands.shell import Shell
from natproxy.cli.commands.stat import Stat
from natproxy.cli.commands.sync import Sync
from natproxy.cli.commands.up import Up

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

COMMANDS: tuple[Command, ...] = (
    *CLIENT_COMMANDS,
    Shell(CLIENT_COMMANDS),
    Up(),
    Config(),
    Doctor(),
    Completion(),
)
"""All commands of the program."""
