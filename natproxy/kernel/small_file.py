"""Files of settings that are read at once: certificates, keys, tokens."""

from __future__ import annotations

import os
import stat

FOR_ITS_OWNER = stat.S_IRWXG | stat.S_IRWXO
"""Bits of the mode that a file for its owner alone does not have."""

WRITTEN_BY_ITS_OWNER = stat.S_IWGRP | stat.S_IWOTH
"""Bits of the mode that a file does not have which its owner alone may write."""


class UnsuitableFile(ValueError):
    """A file that is not read. The text is the reason, and what to do."""


def read_small_file(path: str, most: int, without: int = 0, regular: bool = False) -> bytes:
    """Return the content of a file. Opening a FIFO, or a device, does not wait.

    :param most: bytes that the file may have.
    :param without: bits that its mode must not have: `FOR_ITS_OWNER` or `WRITTEN_BY_ITS_OWNER`.
    :param regular: whether it must be a regular file.
    :raises UnsuitableFile: if it has these bits, is larger, or is not a regular file.
    :raises OSError: if it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        mode = os.fstat(descriptor).st_mode
        if regular and not stat.S_ISREG(mode):
            raise UnsuitableFile("not a regular file")
        if mode & without:
            what, letters = ("write", "w") if without == WRITTEN_BY_ITS_OWNER else ("use", "rwx")
            raise UnsuitableFile(
                f"other users can {what} the file (mode {stat.S_IMODE(mode):04o}):"
                f" chmod go-{letters}"
            )
        # There is nothing in a FIFO without a writer.
        content = file.read(most + 1) or b""
    if len(content) > most:
        raise UnsuitableFile(f"larger than {most} bytes")
    return content
