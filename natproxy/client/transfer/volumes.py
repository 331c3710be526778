"""The space that several downloads need, on each of the volumes that they are saved on."""

from __future__ import annotations

import os
from collections.abc import Iterable

from natproxy.client.transfer.part_file import SUFFIX, stem_of
from natproxy.client.transfer.request import DownloadRequest
from natproxy.client.transfer.space import free_space, require_space

_BLOCK = 512
"""Bytes of a block of ``st_blocks``."""


def require_space_for(requests: Iterable[DownloadRequest], size: int, place: bytes) -> None:
    """Check that there is space for downloads, before the first one begins.

    What is allocated already is not needed again: existing files that are replaced, and partial
    downloads. So the check passes whatever may succeed.

    :param requests: with the metadata of the files.
    :param size: bytes of all of them.
    :param place: the directory that they are saved in, or below.
    :raises LocalError: if there is less space; its ``errno`` is ``ENOSPC``.
    """
    free = free_space(place)
    if free is None or size <= free:
        return
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
    for volume, missing in needed.items():
        require_space(place, missing, places[volume])


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
