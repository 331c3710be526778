"""Open files for relays."""

from __future__ import annotations

import os
from io import FileIO


class RawFile(FileIO):
    """A file of the operating system; see `natproxy.relay.job.File`."""

    blocking = True

    def read_at(self, offset: int, size: int) -> bytes:
        return os.pread(self.fileno(), size, offset)
