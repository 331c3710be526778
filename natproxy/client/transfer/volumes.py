"""The space that several downloads need, on each of the volumes that they are saved on."""

from __future__ import annotations

import os
from collections.abc import Iterable

from natproxy.client.transfer.group import GROUP_SIZE
from natproxy.client.transfer.part_file import SUFFIX, stem_of
from natproxy.client.transfer.request import DownloadRequest
from natproxy.client.transfer.space import free_space, require_space
from natproxy.protocol import MAX_PACKED

# Bytes of two groups of small files: one that is written, one that is committed.
_UNNAMED = 2 * (GROUP_SIZE + MAX_PACKED)

_BLOCK = 512
"""Bytes of a block of ``st_blocks``."""


def require_space_for(requests: Iterable[DownloadRequest], size: int, place: bytes) -> None:
    """Check that there is space for downloads, before the first one begins.

    The parameters and the exception are those of `SpaceCheck`.
    """
    SpaceCheck(place).require(requests, size)


class SpaceCheck:
    """Checks that there is space for downloads, of which more become known with time.

    What is allocated already is not needed again: existing files that are replaced, and partial
    downloads. So the check passes whatever may succeed.

    :param place: the directory that the files are saved in, or below.
    """

    def __init__(self, place: bytes) -> None:
        self._place = place
        # Bytes of downloads that there is space for; ``None`` if that is unknown.
        self._enough = free_space(place)
        self._begun = False

    def require(self, requests: Iterable[DownloadRequest], size: int) -> None:
        """Check the space for all downloads that are known.

        :param requests: with the metadata of the files, including those of earlier calls, which
            may be complete. They are looked at only if the space may not suffice.
        :param size: bytes of all of them.
        :raises LocalError: if there is less space; its ``errno`` is ``ENOSPC``.
        """
        if self._enough is not None and size > self._enough:
            # Small files that have been received may have no names yet.
            unnamed = _UNNAMED if self._begun else 0
            self._enough = size + self._spare(requests, unnamed)
        self._begun = True

    def _spare(self, requests: Iterable[DownloadRequest], unnamed: int) -> int:
        """Return the bytes that remain free on the fullest volume.

        :param unnamed: bytes that may be allocated for the requests under other names.
        """
        # A directory may be on another volume.
        volumes: dict[bytes, int] = {}
        places: dict[int, bytes] = {}
        needed: dict[int, int] = {}
        for request in requests:
            if request.metadata is None:
                continue
            directory, name = os.path.split(request.path)
            volume = volumes.get(directory)
            if volume is None:
                volume = volumes[directory] = _volume_of(directory)
                places.setdefault(volume, directory)
            paths = (request.path, os.path.join(directory, stem_of(name) + SUFFIX))
            missing = request.metadata.size - sum(map(_allocated, paths))
            needed[volume] = needed.get(volume, 0) + max(0, missing)
        spare = []
        for volume, missing in needed.items():
            missing = max(0, missing - unnamed)
            require_space(place := places[volume], missing, place)
            spare.append((free_space(place) or missing) - missing)
        return max(0, min(spare, default=0))


def _volume_of(directory: bytes) -> int:
    """Return the device of a directory, or of the one above it that exists."""
    while True:
        try:
            return os.stat(directory or b".").st_dev
        except OSError:
            above = os.path.dirname(directory)
            if above == directory:
                return 0
            directory = above


def _allocated(path: bytes) -> int:
    try:
        return os.lstat(path).st_blocks * _BLOCK
    except OSError:
        return 0
