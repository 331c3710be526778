"""The pool of pipes, and bodies for which there is no pipe."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted

from natproxy.relay import Method
from natproxy.relay.outbound import BUDGET, SocketOutbound
from natproxy.relay.pipes import LARGE, SMALLEST, Pipe, PipePool
from natproxy.relay.splice import SpliceRelay
from tests.support.files import open_descriptors
from tests.support.relays import (
    KIB,
    MIB,
    Feeder,
    RecordingRelays,
    gets,
    pause,
    relaying,
    reply,
    serving,
)

pytestmark = pytest.mark.skipif(not hasattr(os, "splice"), reason="no splice on this system")


@pytest.fixture
def pool() -> Iterator[PipePool]:
    """Return a pool; all of its pipes are closed at the end."""
    # The reactor opens a few descriptors when it first runs.
    pytest_twisted.blockon(pause(0))
    before = open_descriptors()
    pool = PipePool()
    yield pool
    pool.close()
    assert open_descriptors() <= before


def test_no_more_pipes_are_lent_than_there_are_descriptors_for() -> None:
    pool = PipePool(limit=2)
    pipes = [pool.lend() for _ in range(3)]
    assert pipes[2] is None
    assert (pool.lent, pool.refused) == (2, 1)
    for pipe in pipes[:2]:
        assert pipe is not None
        pool.take_back(pipe, empty=False)


def test_pipe_does_not_block_and_has_its_size(pool: PipePool) -> None:
    pipe = pool.lend()
    assert pipe.size == LARGE
    assert not os.get_blocking(pipe.reader)
    assert not os.get_blocking(pipe.writer)
    assert os.write(pipe.writer, b"x" * 2 * LARGE) == LARGE
    with pytest.raises(BlockingIOError):
        os.write(pipe.writer, b"x")
    assert len(os.read(pipe.reader, 2 * LARGE)) == LARGE
    with pytest.raises(BlockingIOError):
        os.read(pipe.reader, 1)
    assert not os.get_inheritable(pipe.reader)
    assert not os.get_inheritable(pipe.writer)
    pool.take_back(pipe, empty=True)


def test_empty_pipe_is_lent_again(pool: PipePool) -> None:
    first = pool.lend()
    assert pool.lent == 1
    pool.take_back(first, empty=True)
    assert pool.lent == 0
    assert pool.lend() is first
    second = pool.lend()
    assert second is not first
    assert pool.lent == 2
    pool.take_back(first, empty=True)
    pool.take_back(second, empty=True)


def test_pipe_that_holds_bytes_is_closed_and_never_lent_again(pool: PipePool) -> None:
    before = open_descriptors()
    pipe = pool.lend()
    os.write(pipe.writer, b"another client's")
    pool.take_back(pipe, empty=False)
    assert (open_descriptors(), pool.lent) == (before, 0)
    fresh = pool.lend()
    assert fresh is not pipe
    with pytest.raises(BlockingIOError):
        os.read(fresh.reader, 1)
    pool.take_back(fresh, empty=True)


def test_number_of_kept_pipes_is_limited(pool: PipePool) -> None:
    before = open_descriptors()
    pipes = [pool.lend() for _ in range(PipePool.KEPT + 20)]
    # The large ones come last.
    for pipe in reversed(pipes):
        pool.take_back(pipe, empty=True)
    assert (open_descriptors() - before, pool.lent) == (2 * PipePool.KEPT, 0)
    kept = [pool.lend() for _ in range(PipePool.KEPT)]
    assert {pipe.size for pipe in kept} == {LARGE}
    for pipe in kept:
        pool.take_back(pipe, empty=True)
    pool.close()
    assert open_descriptors() <= before


def test_many_pipes_are_small_and_then_there_are_none(pool: PipePool) -> None:
    pipes: list[Pipe] = []
    while (pipe := pool.lend()) is not None:
        pipes.append(pipe)
        assert len(pipes) < 1000
    sizes = [pipe.size for pipe in pipes]
    assert sizes == sorted(sizes, reverse=True)
    assert (sizes[0], sizes[-1]) == (LARGE, SMALLEST)
    # pipe(7): the default limit on all pipes of an unprivileged user.
    assert sum(sizes) <= 64 * MIB
    assert len(pipes) >= 200
    pool.take_back(pipes.pop(), empty=True)
    pipes.append(pool.lend())
    assert pipes[-1].size == SMALLEST
    for pipe in pipes:
        pool.take_back(pipe, empty=True)
    pipe = pool.lend()
    assert (pipe.size, pool.lent) == (LARGE, 1)
    pool.take_back(pipe, empty=True)


def no_descriptor(*_: object) -> tuple[int, int]:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def limit_pipes(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Do what the kernel does for a user with too many pipes: new ones are small and stay so."""
    open_pipe, control = os.pipe2, fcntl.fcntl

    def small_pipe(flags: int) -> tuple[int, int]:
        reader, writer = open_pipe(flags)
        control(writer, fcntl.F_SETPIPE_SZ, size)
        return reader, writer

    def refuse(descriptor: int, command: int, argument: int = 0) -> int:
        if command == fcntl.F_SETPIPE_SZ:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return control(descriptor, command, argument)

    monkeypatch.setattr(os, "pipe2", small_pipe)
    monkeypatch.setattr(fcntl, "fcntl", refuse)


def test_pipe_that_cannot_be_resized_is_used_as_it_is(
    pool: PipePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_pipes(monkeypatch, 64 * KIB)
    pipe = pool.lend()
    assert (pipe.size, pool.lent) == (64 * KIB, 1)
    pool.take_back(pipe, empty=True)


def test_pipe_that_is_too_small_is_closed(pool: PipePool, monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_descriptors()
    limit_pipes(monkeypatch, 8 * KIB)
    assert pool.lend() is None
    assert (open_descriptors(), pool.lent) == (before, 0)


def test_no_pipe_is_no_error(pool: PipePool, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as lack:
        lack.setattr(os, "pipe2", no_descriptor)
        assert (pool.lend(), pool.lent) == (None, 0)
    pool.take_back(pool.lend(), empty=True)


BODY = os.urandom(MIB + 7)


async def relay_bodies() -> RecordingRelays:
    """Relay bodies, inside the kernel if possible; return the relays."""
    async with relaying(Method.KERNEL, all_by_method=False) as proxy, proxy.client() as client:
        for body in (BODY, BODY[:MIB], BODY):
            (await proxy.send_command(client)).send(reply(body))
            await gets(client, reply(body))
        return proxy.relays


@pytest.mark.parametrize("lack", ["pool", "descriptors", "memory"])
@pytest_twisted.ensureDeferred
async def test_without_a_pipe_bodies_are_copied(monkeypatch: pytest.MonkeyPatch, lack: str) -> None:
    spliced: list[object] = []
    monkeypatch.setattr(os, "splice", spliced.append)
    if lack == "pool":
        monkeypatch.setattr(PipePool, "_take", lambda self: None)
    elif lack == "descriptors":
        monkeypatch.setattr(os, "pipe2", no_descriptor)
    else:
        limit_pipes(monkeypatch, 8 * KIB)
    relays = await relay_bodies()
    assert len(relays.made) == 3
    assert (spliced, relays.pool.lent) == ([], 0)
    assert relays.pool.refused > 0


@pytest_twisted.ensureDeferred
async def test_small_pipes_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    limit_pipes(monkeypatch, 64 * KIB)
    relays = await relay_bodies()
    assert [type(relay) for relay in relays.made] == [SpliceRelay] * 3
    assert relays.pool.refused == 0


@pytest.mark.parametrize("spared", [0, 1])
@pytest_twisted.ensureDeferred
async def test_without_descriptors_for_the_sockets_bodies_are_copied(
    monkeypatch: pytest.MonkeyPatch, spared: int, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(BODY)
    duplicate, left = os.dup, [spared]

    def scarce(descriptor: int) -> int:
        if not left[0]:
            no_descriptor()
        left[0] -= 1
        return duplicate(descriptor)

    monkeypatch.setattr(os, "dup", scarce)
    await relay_bodies()
    left[0] = 0
    serve = serving(Method.KERNEL, tmp_path, all_by_method=False)
    async with serve as server, server.client() as client:
        client.send(b"DOWNLOAD file\n")
        await gets(client, reply(BODY))


@pytest_twisted.ensureDeferred
async def test_pipe_with_a_clients_bytes_in_it_is_not_used_for_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unread: list[Pipe] = []
    lent: list[Pipe | None] = []
    take_back, lend = PipePool.take_back, PipePool.lend

    def recorded_take_back(self: PipePool, pipe: Pipe, empty: bool) -> None:
        if not empty:
            unread.append(pipe)
            lent.clear()
        take_back(self, pipe, empty)

    def recorded_lend(self: PipePool) -> Pipe | None:
        lent.append(lend(self))
        return lent[-1]

    monkeypatch.setattr(PipePool, "take_back", recorded_take_back)
    monkeypatch.setattr(PipePool, "lend", recorded_lend)
    # As if the kernel did not report how much a socket takes.
    monkeypatch.setattr(SocketOutbound, "space", lambda self: BUDGET)
    async with relaying(Method.KERNEL, relays=RecordingRelays(Method.KERNEL)) as proxy:
        async with proxy.client() as client:
            upstream = await proxy.send_command(client)
            client.stop_reading()
            proxy.shrink_buffers(client)
            upstream.send(b"OK %d\n" % (1 << 40))
            Feeder(upstream, 1 << 40)
            await proxy.stalled()
            client.kill()
            await proxy.ended("client-gone")
        async with proxy.client() as client:
            for _ in range(2):
                (await proxy.send_command(client)).send(reply(BODY))
                await gets(client, reply(BODY))
    assert len(unread) == 1
    assert lent
    assert not any(pipe is unread[0] for pipe in lent)
