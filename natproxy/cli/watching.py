"""The option ``--watch`` of commands that show a state again and again."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError

INTERVAL = 2.0
"""Seconds between two states."""


def seconds(text: str) -> float:
    """Return the seconds of an interval.

    :raises ArgumentTypeError: if it is malformed, too short or too long.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.1 <= value <= 86400:
        raise ArgumentTypeError(
            f"'{text}': must be from 0.1 to 86400 seconds; a filter is written before --watch"
        )
    return value


def add_watch_option(parser: ArgumentParser, rates: str = "") -> None:
    """Add the option.

    :param rates: what rates are, as the end of its help.
    """
    parser.add_argument(
        "--watch",
        metavar="SECONDS",
        nargs="?",
        type=seconds,
        const=INTERVAL,
        help=f"repeat at this interval (default: {INTERVAL:g} s){rates}",
    )
