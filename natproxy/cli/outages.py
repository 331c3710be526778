"""What is said of a file whose transfer was given up."""

from __future__ import annotations

import os

from natproxy import wire
from natproxy.client.errors import ClientError, GaveUp
from natproxy.client.transfer import Wanted


def failure_message(error: ClientError, wanted: Wanted) -> str:
    """Return the line about a file that could not be downloaded.

    After an outage it names the file, and says that what was received is kept.
    """
    message = str(error)
    if not (error.passing or isinstance(error, GaveUp)):
        return message
    name = wire.printable(wanted.name)
    if name not in message:
        message = f"{name}: {message}"
    if "kept" not in message and _is_kept(wanted.path):
        message += "; what was received is kept, and the same command continues it"
    return message


def _is_kept(path: bytes) -> bool:
    directory, last = os.path.split(path)
    try:
        return os.stat(os.path.join(directory, b"." + last + b".part")).st_size > 0
    except (OSError, ValueError):
        return False
