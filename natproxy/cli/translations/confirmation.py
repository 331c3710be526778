"""A confirmation on the terminal, before something is ended or erased."""

from __future__ import annotations

import sys

from natproxy.cli.output import is_terminal, write_line
from natproxy.client.errors import UsageError


def confirmed(prompt: str, purpose: str) -> bool:
    """Return whether the user confirms.

    :param prompt: such as ``End 2 commands?``.
    :param purpose: what ``--yes`` does without a terminal, as the end of a message.
    :raises UsageError: if there is no terminal.
    """
    if not (is_terminal(sys.stdin) and is_terminal(sys.stderr)):
        raise UsageError(f"there is no terminal to confirm on: add --yes to {purpose}")
    sys.stderr.write(f"{prompt} [y/N] ")
    sys.stderr.flush()
    reply = sys.stdin.readline()
    if not reply.endswith("\n"):
        # Ctrl-D leaves the cursor behind the prompt.
        write_line(sys.stderr, "")
    return reply.strip().lower() in ("y", "yes")
