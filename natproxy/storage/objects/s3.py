"""The client of an S3 service, by botocore."""

from __future__ import annotations

import base64
import binascii
import re
import threading
from contextlib import suppress
from typing import Any

from natproxy.extras import missing
from natproxy.storage.interface import NotFound
from natproxy.storage.objects.client import (
    EmptyObject,
    Listed,
    ListedPage,
    ObjectChanged,
    ObjectInfo,
    StoreError,
)
from natproxy.storage.objects.location import Location

CONNECT_TIMEOUT = 5.0
"""Seconds for a connection to the store."""

READ_TIMEOUT = 15.0
"""Seconds without a byte from the store.

Two attempts take less than a client of the file server waits.
"""

ATTEMPTS = 2
"""Times that a request is sent if it fails for a reason that may pass."""

CONNECTIONS = 48
"""Idle connections that are kept."""

_BUSY = frozenset({429, 500, 502, 503, 504})
_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")
_ETAG = re.compile(r"[!-~]{1,128}")


class MissingLibrary(Exception):
    """The library that the object store needs is not installed."""

    def __init__(self) -> None:
        super().__init__(missing("S3", "botocore", "s3"))


class S3Body:
    """The body of a ``GetObject``; see `natproxy.storage.objects.client.Body`."""

    def __init__(self, client: S3Client, stream: Any, info: ObjectInfo) -> None:
        self._client = client
        self._stream = stream
        self.info = info

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes; none at the end."""
        try:
            data: bytes = self._stream.read(size)
        except Exception as error:
            raise self._client.failure(error) from None
        return data

    def close(self) -> None:
        """Close the response."""
        with suppress(Exception):
            self._stream.close()


class S3Client:
    """Sends requests to an S3 service; see `natproxy.storage.objects.client.ObjectClient`.

    Credentials come from the usual places: environment, profile, role. It opens no connection and
    starts no thread before its first request.

    :param location: bucket and endpoint.
    :raises MissingLibrary: if botocore is not installed.
    :ivar by_name: whether the store lists keys by name; see `ObjectClient.by_name`.
    """

    def __init__(self, location: Location) -> None:
        try:
            import botocore.session
        except ImportError:
            raise MissingLibrary from None
        self._session: Any = botocore.session
        self._location = location
        self._lock = threading.Lock()
        self._made: Any = None
        self.by_name = False

    def head(self, key: str, digest: bool = False) -> ObjectInfo:
        """Return what the store reports about an object; see `ObjectClient.head`."""
        options = {"ChecksumMode": "ENABLED"} if digest else {}
        reply = self._call("head_object", Key=key, **options)
        return _info_of(reply, reply.get("ContentLength"))

    def get(self, key: str, start: int, stop: int, etag: str | None = None) -> S3Body:
        """Begin to receive a range; see `ObjectClient.get`."""
        options = {} if etag is None else {"IfMatch": f'"{etag}"'}
        try:
            reply = self._call("get_object", Key=key, Range=f"bytes={start}-{stop - 1}", **options)
        except NotFound:
            if etag is None:
                raise
            raise ObjectChanged from None
        try:
            info = _info_of(reply, _size_of(reply, start, stop))
            if etag is not None and info.etag != etag:
                # A store that ignores If-Match.
                raise ObjectChanged
        except BaseException:
            with suppress(Exception):
                reply["Body"].close()
            raise
        return S3Body(self, reply["Body"], info)

    def page(
        self, prefix: str, delimited: bool, after: str, token: str | None, limit: int
    ) -> ListedPage:
        """Return a part of a listing; see `ObjectClient.page`."""
        options: dict[str, object] = {"Delimiter": "/"} if delimited else {}
        if token is not None:
            options["ContinuationToken"] = token
        elif after:
            options["StartAfter"] = after
        reply = self._call("list_objects_v2", Prefix=prefix, MaxKeys=limit, **options)
        listed = [
            Listed(one["Key"], _info_of(one, one["Size"])) for one in reply.get("Contents", ())
        ]
        listed += [Listed(one["Prefix"], None) for one in reply.get("CommonPrefixes", ())]
        listed.sort()
        return ListedPage(listed, reply.get("NextContinuationToken"))

    def failure(self, error: Exception) -> StoreError:
        """Return the error that reports an exception of botocore.

        Not with its text, which may contain a URL with a signature.
        """
        from botocore import exceptions

        if isinstance(error, StoreError):
            return error
        if isinstance(error, exceptions.ClientError):
            code = str(error.response.get("Error", {}).get("Code", ""))[:100]
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            shown = f"{code}, HTTP {status}" if not code.isdigit() else f"HTTP {status}"
            if status == 412:
                return ObjectChanged()
            if status == 416:
                return EmptyObject()
            if status in (401, 403):
                return StoreError(
                    f"access denied by the object store ({shown}); check the credentials"
                    " (environment, profile or role) and what they may read and list"
                )
            if code == "NoSuchBucket":
                return StoreError(f"no such bucket: {self._location.bucket}")
            if status in _BUSY:
                return StoreError(f"the object store is busy or fails ({shown})")
            return StoreError(f"the object store refuses a request ({shown})")
        if isinstance(error, (exceptions.NoCredentialsError, exceptions.PartialCredentialsError)):
            return StoreError(
                "no credentials for the object store; set AWS_ACCESS_KEY_ID and"
                " AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            )
        if isinstance(error, (exceptions.ReadTimeoutError, exceptions.ConnectTimeoutError)):
            return StoreError("the object store does not respond")
        kind = type(error).__name__
        if isinstance(error, (exceptions.HTTPClientError, exceptions.ConnectionError)):
            where = self._location.endpoint or "the object store"
            return StoreError(f"the connection to {where} fails ({kind})")
        if isinstance(error, exceptions.ProfileNotFound):
            return StoreError("AWS_PROFILE names a profile that does not exist")
        return StoreError(f"the request to the object store fails ({kind})")

    def _call(self, operation: str, **options: object) -> dict[str, Any]:
        from botocore.exceptions import ClientError

        try:
            client = self._made or self._make()
            reply: dict[str, Any] = getattr(client, operation)(
                Bucket=self._location.bucket, **options
            )
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code")
            if code in ("NoSuchKey", "404", "NotFound"):
                raise NotFound from None
            raise self.failure(error) from None
        except Exception as error:
            raise self.failure(error) from None
        if not self.by_name:
            server = reply["ResponseMetadata"].get("HTTPHeaders", {}).get("server", "")
            # A store on file systems, which lists them as such.
            self.by_name = server.startswith("SeaweedFS")
        return reply

    def _make(self) -> Any:
        """Return the client of botocore. Making it takes long and opens no connection."""
        from botocore.config import Config

        with self._lock:
            if self._made is None:
                session = self._session.get_session()
                endpoint = self._location.endpoint
                self._made = session.create_client(
                    "s3",
                    endpoint_url=endpoint,
                    region_name=session.get_config_variable("region") or "us-east-1",
                    config=Config(
                        connect_timeout=CONNECT_TIMEOUT,
                        read_timeout=READ_TIMEOUT,
                        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
                        max_pool_connections=CONNECTIONS,
                        s3={"addressing_style": "path"} if endpoint else {},
                        request_checksum_calculation="when_required",
                        response_checksum_validation="when_required",
                        tcp_keepalive=True,
                    ),
                )
            return self._made


def _size_of(reply: dict[str, Any], start: int, stop: int) -> int:
    """Return the size of the whole object whose range a reply contains.

    :raises StoreError: if it contains another range.
    """
    length, stated = reply.get("ContentLength"), reply.get("ContentRange")
    if stated is None and start == 0 and isinstance(length, int) and length <= stop:
        # The whole object: some stores reply so if the range covers it.
        return length
    found = _RANGE.fullmatch(str(stated))
    if found is not None:
        first, last, size = map(int, found.groups())
        if first == start and last == min(stop, size) - 1 and length == last + 1 - first:
            return size
    raise StoreError(f"the object store sends another range than bytes {start} to {stop - 1}")


def _info_of(reply: dict[str, Any], size: object) -> ObjectInfo:
    etag = str(reply.get("ETag", "")).removeprefix("W/").strip('"')
    modified = reply.get("LastModified")
    if not isinstance(size, int) or modified is None or not _ETAG.fullmatch(etag):
        raise StoreError("the object store reports an object without size, time or etag")
    return ObjectInfo(size, int(modified.timestamp()) * 1_000_000_000, etag, _sha256_of(reply))


def _sha256_of(reply: dict[str, Any]) -> str | None:
    """Return the stored digest of a whole object; that of parts ends with their number."""
    stored = reply.get("ChecksumSHA256")
    if not stored or "-" in stored or reply.get("ChecksumType", "FULL_OBJECT") != "FULL_OBJECT":
        return None
    try:
        digest = base64.b64decode(stored, validate=True)
    except binascii.Error:
        return None
    return digest.hex() if len(digest) == 32 else None
