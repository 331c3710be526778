"""The served directory: its boundary, its files and folders, what is said of them.

A name from a client is resolved below the served directory or not at all, and the
kernel decides which; path strings are never compared. Sizes are taken from the
descriptor that the bytes are read from.

No reactor in here: `Directory.listing` and `Directory.page` take long and are called
in threads.
"""

from natproxy.beneath import choose_opener, open_beneath, open_by_walk
from natproxy.storage.confinement import FileNotFound
from natproxy.storage.directory import Directory, Listing, Served
from natproxy.storage.settling import Settling
from natproxy.storage.tree import Paged, status_of

__all__ = [
    "Directory",
    "FileNotFound",
    "Listing",
    "Paged",
    "Served",
    "Settling",
    "choose_opener",
    "open_beneath",
    "open_by_walk",
    "status_of",
]
