"""Where served files are stored: the interface of a storage; the local directory; objects.

The interface and its rules are in `natproxy.storage.interface`. No module here imports the
protocol, or uses a reactor.
"""

from natproxy.storage.interface import (
    Changing,
    NotFound,
    OpenFile,
    Snapshot,
    Snapshots,
    Step,
    Storage,
    TooLarge,
    TopFiles,
)
from natproxy.storage.local.metadata import RacyTimestamps
from natproxy.storage.local.storage import LocalStorage
from natproxy.storage.objects.storage import ObjectStorage

__all__ = [
    "Changing",
    "LocalStorage",
    "NotFound",
    "ObjectStorage",
    "OpenFile",
    "RacyTimestamps",
    "Snapshot",
    "Snapshots",
    "Step",
    "Storage",
    "TooLarge",
    "TopFiles",
]
