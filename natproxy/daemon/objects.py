"""The object store that a file server serves, made of its config."""

from __future__ import annotations

import os

from natproxy.daemon.fileserver_config import FileServerConfig
from natproxy.settings import SettingError
from natproxy.storage import ObjectStorage
from natproxy.storage.cache import DiskCache
from natproxy.storage.objects.client import StoreError
from natproxy.storage.objects.location import parse_location
from natproxy.storage.objects.s3 import MissingLibrary, S3Client


def open_objects(config: FileServerConfig) -> ObjectStorage:
    """Return the objects to serve; they can be listed.

    :param config: its ``files`` names an object store.
    :raises SettingError: if they cannot, or the cache cannot be used.
    """
    assert config.files is not None
    named = f"{config.label('files')} {config.files}"
    try:
        location = parse_location(config.files, config.s3_endpoint)
        # With a client of its own: a daemon may fork before the first request of the other one.
        checked = ObjectStorage(location, S3Client(location))
        checked.check()
        client = S3Client(location)
        client.by_name = checked.client.by_name
    except (ValueError, MissingLibrary, StoreError) as error:
        raise SettingError(f"{named}: {error}") from error
    return ObjectStorage(location, client, _open_cache(config))


def _open_cache(config: FileServerConfig) -> DiskCache | None:
    if config.cache is None:
        return None
    named = f"{config.label('cache')} {config.cache}"
    cache = DiskCache(os.path.join(config.directory, config.cache), config.cache_size)
    try:
        cache.open()
    except (FileExistsError, NotADirectoryError):
        raise SettingError(f"{named}: not a directory") from None
    except OSError as error:
        raise SettingError(f"{named}: {error.strerror}") from error
    return cache
