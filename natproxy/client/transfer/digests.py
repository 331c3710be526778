"""Compare local files with the server's by their digests, without a download."""

from __future__ import annotations

from collections.abc import Sequence
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
    files = plan.same_size
    plan.same_size = []
    compared = 0
    while (compared := _compare_pipelined(session, plan, files, compared)) < len(files):
        # A digest that takes longer than the server may be silent is requested alone.
        entry = files[compared]
        compared += 1
        try:
            digest = retry(partial(session.hash, entry.name))
        except ServerError as error:
            _sort(plan, entry, error)
        else:
            _sort(plan, entry, digest)
    plan.sort_new()


def _compare_pipelined(
    session: Session, plan: MirrorPlan, files: Sequence[Entry], compared: int
) -> int:
    """Compare files until one fails; return how many have been compared.

    :param compared: how many have been compared before. They are not looked at: a server may make
        every file fail.
    """
    requests = (Hash(files[number].name) for number in range(compared, len(files)))
    try:
        with closing(session.pipeline(requests, DIGESTS_AHEAD)) as replies:
            for _, result in replies:
                if isinstance(result, ClientError) and result.passing:
                    break
                _sort(plan, files[compared], result)
                compared += 1
    except Interrupted:
        raise
    except ClientError:
        # The next one is requested alone, and may be retried.
        pass
    return compared


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
