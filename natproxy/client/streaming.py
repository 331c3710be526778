"""A file's bytes, in order, to whoever takes them: a pipe, most often.

What is out cannot be taken back: a file that changes on the way ends the stream.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial

from natproxy import wire
from natproxy.client.errors import Changed, DigestMismatch, NotFound, UsageError
from natproxy.client.events import Event, Phase, Progress, unobserved
from natproxy.client.retrying import Persistence, Stop
from natproxy.client.session import Session
from natproxy.client.transfer import PIECE, How


def stream(
    session: Session,
    name: bytes,
    write: Callable[[memoryview], object],
    how: How | None = None,
    progress: Progress = unobserved,
    stop: Stop | None = None,
) -> int:
    """Fetch a file and hand its bytes on; a lost connection is made anew and gone on with.

    :param write: takes each piece, whole, before it returns.
    :return: the size of the file, in bytes.
    :raises Changed: if the file changes meanwhile: what was written is of the first one.
    :raises DigestMismatch: with `How.verify`, if what was written isn't what the server has.
    :raises ClientError: if it can't be had.
    """
    how = how or How()
    stop = stop or Stop()
    status: wire.Status | None = None
    done = 0
    digest = hashlib.sha256() if how.verify else None
    buffer = memoryview(bytearray(how.limit.piece if how.limit else PIECE))

    def tell(phase: Phase, message: str = "") -> None:
        progress(Event(name, phase, done, None if status is None else status.size, message))

    def take(size: int) -> None:
        nonlocal done
        write(buffer[:size])
        if digest is not None:
            digest.update(buffer[:size])
        done += size
        persistently.received += size
        tell(Phase.RECEIVING)
        stop.check()
        if how.limit:
            stop.sleep(max(0.0, how.limit.take(size)))

    def receive(status: wire.Status) -> None:
        if done == status.size:
            return
        with session.get(name, done, None, status.etag) as (reply, _):
            while size := reply.receive_into(buffer):
                take(size)

    persistently = Persistence(how.retries, stop, lambda why: tell(Phase.WAITING, why))
    if persistently(lambda: session.version) < 2:
        if how.verify:
            session.needs("compute digests to verify with")
        # Version 1 cannot go on in the middle: one try, and what it gives.
        with session.whole(name) as reply:
            while size := reply.receive_into(buffer):
                take(size)
        return done
    status = persistently(partial(session.stat, name))
    if status.type != wire.FILE:
        raise UsageError(f"{wire.printable(name)}: is a folder")
    persistently(partial(receive, status))
    if digest is not None:
        tell(Phase.VERIFYING)
        theirs = persistently(partial(session.hash, name))
        etag = theirs.etag
    else:
        try:
            etag = persistently(partial(session.stat, name)).etag
        except NotFound:
            etag = ""
    if etag != status.etag:
        raise Changed(f"{wire.printable(name)}: changed on the server while it was fetched")
    if digest is not None and theirs.sha256 != digest.hexdigest():
        raise DigestMismatch(f"{wire.printable(name)}: the SHA-256 is not the server's")
    tell(Phase.COMPLETE)
    return done
