"""Compare local files with the server's by their digests, without a download."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import closing
from functools import partial

from natproxy.client.blocking.session import Session
from natproxy.client.errors import ClientError, Interrupted, LocalError, ServerError
from natproxy.client.requests import Hash
from natproxy.client.transfer.destination import LocalFile
from natproxy.client.transfer.parallel import Retry
from natproxy.client.transfer.plan import MirrorPlan, path_below
from natproxy.protocol import Digest, Entry

DIGESTS_AHEAD = 8
"""``HASH`` commands without a reply at most."""

_CHUNK = 1 << 20


def compare_digests(session: Session, plan: MirrorPlan, retry: Retry) -> None:
    """Divide the files of `MirrorPlan.same_size` into downloads and unchanged ones.

    A file whose digest the server cannot compute is a download, which fails for the same reason
    or takes the file as it is now.
    """
    files = deque(plan.same_size)
    plan.same_size = []
    while files:
        # A digest that takes longer than the server may be silent is requested alone.
        if not _compare_pipelined(session, plan, files):
            entry = files.popleft()
            try:
                digest = retry(partial(session.hash, entry.name))
            except ServerError as error:
                _sort(plan, entry, error)
            else:
                _sort(plan, entry, digest)
    plan.sort_new()


def _compare_pipelined(session: Session, plan: MirrorPlan, files: deque[Entry]) -> bool:
    """Compare files, and remove them from the queue; return false after a failure."""
    requests: Iterator[Hash] = (Hash(entry.name) for entry in tuple(files))
    try:
        with closing(session.pipeline(requests, DIGESTS_AHEAD)) as replies:
            for _, result in replies:
                if isinstance(result, ClientError) and result.passing:
                    return False
                _sort(plan, files.popleft(), result)
    except Interrupted:
        raise
    except ClientError:
        return False
    return True


def _sort(plan: MirrorPlan, entry: Entry, digest: Digest | ClientError) -> None:
    """Count a file as unchanged, or add it to the downloads."""
    below = path_below(entry.name, plan.top)
    file = LocalFile(plan.tree.path_of(below), plan.tree, below)
    if isinstance(digest, Digest) and _local_digest(file) == digest.sha256:
        plan.unchanged += 1
    else:
        plan.downloads.append(entry)


def _local_digest(file: LocalFile) -> str:
    """Return the SHA-256 of a local file; empty if it is a link or cannot be read."""
    # Imported here because most comparisons need no digest.
    import hashlib

    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK))
    try:
        with file.open() as opened:
            while size := opened.readinto(buffer):
                digest.update(buffer[:size])
    except (OSError, LocalError):
        # A download may replace it.
        return ""
    return digest.hexdigest()
