"""The served directory: its boundary, its files and directories, what is said of them.

A name from a client is resolved below the served directory or not at all, and the
kernel decides which; path strings are never compared. Sizes are taken from the
descriptor that the bytes are read from.

No reactor in here: `Directory.listing` and `Directory.page` take long and are called
in threads.
"""

from natproxy.kernel.openat2 import choose_opener, open_beneath, open_by_walk
from natproxy.storage.local.confinement import FileNotFound
from natproxy.storage.local.directory import Directory, Listing, Served
from natproxy.storage.local.settling import Settling
from natproxy.storage.local.tree import Paged, metadata_of

__all__ = [
    "Directory",
    "FileNotFound",
    "Listing",
    "Paged",
    "Served",
    "Settling",
    "choose_opener",
    "metadata_of",
    "open_beneath",
    "open_by_walk",
]
