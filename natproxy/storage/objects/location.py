"""Where the objects of a storage are: ``s3://BUCKET/PREFIX``, and the endpoint of the store."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

SCHEME = "s3://"
"""What the location of an object store begins with."""


class Location(NamedTuple):
    """A bucket and a prefix of keys.

    :ivar bucket: the name of the bucket.
    :ivar prefix: the prefix of the keys that are served, with a slash at its end; empty for all.
    :ivar endpoint: URL of the service; ``None`` for that of the environment, or of AWS.
    """

    bucket: str
    prefix: str = ""
    endpoint: str | None = None

    def __str__(self) -> str:
        """Return ``s3://BUCKET/PREFIX``."""
        return f"{SCHEME}{self.bucket}/{self.prefix.removesuffix('/')}"


def is_location(text: str) -> bool:
    """Return whether a setting names an object store, and not a directory."""
    return text.startswith(SCHEME)


def parse_location(text: str, endpoint: str | None = None) -> Location:
    """Return the location that a text names.

    :param text: ``s3://BUCKET`` or ``s3://BUCKET/PREFIX``.
    :raises ValueError: if it names none; the message begins with "must".
    """
    bucket, _, prefix = text.removeprefix(SCHEME).partition("/")
    if not is_location(text) or not bucket or bucket.startswith("-") or "@" in bucket:
        raise ValueError("must be s3://BUCKET or s3://BUCKET/PREFIX")
    if bucket.endswith("--x-s3"):
        raise ValueError("must not be a directory bucket: S3 Express does not list keys in order")
    if not prefix:
        return Location(bucket, "", endpoint)
    prefix = prefix.removesuffix("/")
    if not {"", ".", ".."}.isdisjoint(prefix.split("/")):
        raise ValueError("must have a prefix without empty components, '.' and '..'")
    return Location(bucket, f"{prefix}/", endpoint)


def check_endpoint(text: str) -> str:
    """Return the URL of an S3 service if it is valid.

    :raises ValueError: if it is not; the message begins with "must".
    """
    url = urlsplit(text)
    if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment:
        raise ValueError("must be a URL such as https://s3.example or http://127.0.0.1:8333")
    if url.username is not None or url.password is not None:
        # Everyone on this host can read the command line.
        raise ValueError("must not contain a user or a password; set AWS_ACCESS_KEY_ID instead")
    return text
