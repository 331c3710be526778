"""Workers are started, watched, replaced and drained; siblings accept for missing ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from natproxy.daemon.workers.member import LaunchedAs, StartFailed, Worker
from natproxy.daemon.workers.pool import (
    BEAT,
    LONGEST_DELAY,
    REAP,
    SILENCE,
    START,
    STEADY,
    Pool,
    delay_after,
)
from natproxy.daemon.workers.process import Launched
from natproxy.daemon.workers.state import State
from tests.support.workers import PlayedProcess


class PoolCase(SynchronousTestCase):
    """A pool whose workers are played."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.processes: list[PlayedProcess] = []
        self.transports: dict[Worker, StringTransport] = {}
        self.refused = 0
        self.pool = Pool(self.clock, 3, self.launch, self.attach)
        self.ended: list[Pool] = []
        self.pool.ended = self.ended.append
        self.started = self.pool.start()

    def launch(self, number: int, /) -> LaunchedAs:
        if self.refused:
            self.refused -= 1
            raise OSError(11, "too many processes")
        process = PlayedProcess(100 + len(self.processes))
        self.processes.append(process)
        any_socket: Any = None
        return LaunchedAs("boot", None, Launched(process, any_socket, any_socket))

    def attach(self, worker: Worker) -> None:
        self.transports[worker] = transport = StringTransport()
        worker.channel.makeConnection(transport)

    def worker(self, number: int) -> Worker:
        return next(one for one in self.pool if one.number == number)

    def receive(self, worker: Worker, event: str, **members: Any) -> None:
        worker.channel.dataReceived(json.dumps({"event": event, **members}).encode() + b"\n")

    def sent(self, worker: Worker) -> list[Mapping[str, Any]]:
        """Return the messages to a worker since the last call."""
        transport = self.transports[worker]
        lines = transport.value().splitlines()
        transport.clear()
        return [json.loads(line) for line in lines]

    def end(self, worker: Worker, status: int = 9) -> None:
        """End the process of a worker; the kernel closes its channel."""
        worker.process.status = status
        worker.channel.connectionLost()
        self.clock.advance(REAP)

    def serve(self) -> None:
        """Have all workers start, and the reactor run."""
        for worker in list(self.pool):
            self.receive(worker, "ready")
        self.successResultOf(self.started)
        self.pool.attach()

    def beat(self, seconds: float) -> None:
        """Advance the clock, with heartbeats of all workers."""
        for _ in range(int(seconds / BEAT)):
            self.clock.advance(BEAT)
            for worker in self.pool:
                if worker.state in (State.SERVING, State.DRAINING):
                    self.receive(worker, "beat")


class StartTests(PoolCase):
    def test_it_has_started_when_all_serve(self) -> None:
        for number in range(3):
            self.assertNoResult(self.started)
            self.receive(self.worker(number), "ready")
        self.successResultOf(self.started)
        self.assertEqual([one.state for one in self.pool], [State.SERVING] * 3)

    def test_reason_of_the_worker_that_cannot_start(self) -> None:
        failing = self.worker(1)
        self.receive(failing, "failed", reason="--files x: no such directory")
        self.end(failing, 256)
        error = self.failureResultOf(self.started, StartFailed).value
        self.assertEqual(str(error), "--files x: no such directory")
        self.assertEqual([one.signals for one in self.processes], [["TERM"], [], ["TERM"]])

    def test_worker_that_ends_without_a_reason(self) -> None:
        self.end(self.worker(2), 11)
        error = self.failureResultOf(self.started, StartFailed).value
        self.assertEqual(str(error), "worker 2: process 102 was ended by SIGSEGV")

    def test_process_that_cannot_be_started(self) -> None:
        self.refused = 1
        pool = Pool(self.clock, 3, self.launch, self.attach)
        error = self.failureResultOf(pool.start(), StartFailed).value
        self.assertEqual(str(error), "cannot start a process: too many processes")

    def test_pool_of_which_no_process_starts_has_ended(self) -> None:
        self.refused = 1
        pool = Pool(self.clock, 3, self.launch, self.attach)
        pool.ended = self.ended.append
        self.failureResultOf(pool.start(), StartFailed)
        self.assertEqual(self.ended, [pool])

    def test_start_fails_if_the_daemon_stops_meanwhile(self) -> None:
        self.receive(self.worker(0), "ready")
        self.pool.drain(5)
        self.failureResultOf(self.started, StartFailed)
        for worker in list(self.pool):
            self.assertEqual(self.ended, [])
            self.end(worker, 0)
        self.assertEqual(self.ended, [self.pool])

    def test_worker_that_takes_too_long_is_killed(self) -> None:
        self.pool.attach()
        self.beat(START + 2 * BEAT)
        self.assertEqual({tuple(set(one.signals)) for one in self.processes}, {("KILL",)})
        self.end(self.worker(0))
        self.failureResultOf(self.started, StartFailed)


class ReplacementTests(PoolCase):
    def setUp(self) -> None:
        super().setUp()
        self.serve()

    def test_killed_worker_is_replaced_at_once(self) -> None:
        self.end(self.worker(1))
        self.clock.advance(0)
        self.assertEqual(len(self.processes), 4)
        self.assertEqual(self.worker(1).state, State.STARTING)

    def test_sibling_accepts_until_the_next_one_serves(self) -> None:
        self.end(self.worker(1))
        self.clock.advance(0)
        sibling = self.worker(2)
        self.assertEqual(self.sent(sibling), [{"do": "adopt", "socket": 1}])
        self.receive(self.worker(1), "ready")
        self.assertEqual(self.sent(sibling), [{"do": "release", "socket": 1}])
        self.assertEqual(self.sent(self.worker(0)), [])

    def test_sibling_accepts_before_the_process_is_reaped(self) -> None:
        lost = self.worker(1)
        lost.channel.connectionLost()
        self.assertEqual(self.sent(self.worker(2)), [{"do": "adopt", "socket": 1}])
        self.assertEqual(lost.state, State.LOST)
        lost.process.status = 9
        self.clock.advance(REAP)
        self.assertEqual(lost.state, State.ENDED)

    def test_another_sibling_accepts_when_the_first_one_ends_too(self) -> None:
        self.end(self.worker(1))
        self.end(self.worker(2))
        self.clock.advance(0)
        adopted = [message["socket"] for message in self.sent(self.worker(0))]
        self.assertEqual(sorted(adopted), [1, 2])

    def test_first_worker_to_serve_again_accepts_for_all(self) -> None:
        for number in range(3):
            self.end(self.worker(number))
        self.clock.advance(0)
        self.receive(self.worker(1), "ready")
        adopted = [message["socket"] for message in self.sent(self.worker(1))]
        self.assertEqual(sorted(adopted), [0, 2])

    def test_delay_grows_and_ends(self) -> None:
        self.assertEqual([delay_after(n) for n in range(1, 5)], [0.0, 1.0, 2.0, 4.0])
        self.assertEqual(delay_after(100), LONGEST_DELAY)
        self.end(self.worker(0))
        self.clock.advance(0)
        self.end(self.worker(0))
        self.clock.advance(0)
        self.assertEqual([one.number for one in self.pool], [1, 2])
        self.beat(2 * BEAT)
        self.assertEqual([one.number for one in self.pool], [0, 1, 2])

    def test_no_delay_after_a_worker_that_has_served_long(self) -> None:
        self.end(self.worker(0))
        self.clock.advance(0)
        self.receive(self.worker(0), "ready")
        self.beat(STEADY + BEAT)
        self.end(self.worker(0))
        self.clock.advance(0)
        self.assertEqual(self.worker(0).state, State.STARTING)

    def test_process_that_cannot_be_started_is_tried_again(self) -> None:
        self.refused = 2
        self.end(self.worker(0))
        self.clock.advance(0)
        self.beat(8 * BEAT)
        self.assertEqual(self.worker(0).state, State.STARTING)

    def test_worker_that_drains_alone_is_replaced_meanwhile(self) -> None:
        draining = self.worker(0)
        self.receive(draining, "draining")
        self.clock.advance(0)
        self.assertEqual(self.worker(0).state, State.STARTING)
        self.assertIn(draining, list(self.pool))
        self.end(draining, 0)
        self.assertNotIn(draining, list(self.pool))
        self.assertEqual(len(self.processes), 4)


class HeartbeatTests(PoolCase):
    def setUp(self) -> None:
        super().setUp()
        self.serve()

    def test_silent_worker_is_killed_and_its_socket_served(self) -> None:
        silent = self.worker(1)
        for _ in range(int(SILENCE / BEAT) + 2):
            self.clock.advance(BEAT)
            for worker in self.pool:
                if worker is not silent:
                    self.receive(worker, "beat")
        self.assertEqual(silent.state, State.LOST)
        self.assertIn("KILL", self.processes[1].signals)
        self.assertEqual(self.sent(self.worker(2)), [{"do": "adopt", "socket": 1}])
        self.end(silent)
        self.clock.advance(0)
        self.assertEqual(self.worker(1).state, State.STARTING)

    def test_no_worker_is_killed_when_the_master_itself_was_stopped(self) -> None:
        self.clock.advance(10 * SILENCE)
        self.assertEqual([one.signals for one in self.processes], [[], [], []])
        self.beat(SILENCE + 2 * BEAT)
        self.assertEqual([one.signals for one in self.processes], [[], [], []])

    def test_draining_worker_may_take_any_time_but_must_not_hang(self) -> None:
        self.pool.retire(None)
        self.beat(5 * SILENCE)
        self.assertEqual([one.signals for one in self.processes], [[], [], []])
        self.clock.pump([BEAT] * (int(SILENCE / BEAT) + 2))
        self.assertTrue(all("KILL" in one.signals for one in self.processes))


class EndTests(PoolCase):
    def setUp(self) -> None:
        super().setUp()
        self.serve()

    def test_drained_workers_are_not_replaced(self) -> None:
        workers = list(self.pool)
        self.pool.drain(30.0)
        for worker in workers:
            self.assertEqual(self.sent(worker), [{"do": "drain", "seconds": 30.0}])
            self.assertEqual(self.ended, [])
            self.end(worker, 0)
        self.assertEqual(self.ended, [self.pool])
        self.assertEqual((len(self.pool), len(self.processes)), (0, 3))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_replacement_that_waits_is_cancelled(self) -> None:
        for _ in range(2):
            self.end(self.worker(0))
            self.clock.advance(0)
        self.pool.drain(1.0)
        for worker in list(self.pool):
            self.end(worker, 0)
        self.assertEqual(self.ended, [self.pool])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_request_fails_with_the_worker(self) -> None:
        worker = self.worker(0)
        first = worker.request("reload")
        second = worker.request("reload")
        self.receive(worker, "reply", id=1, errors=[])
        self.assertEqual(self.successResultOf(first)["errors"], [])
        self.end(worker)
        self.failureResultOf(second, StartFailed)
