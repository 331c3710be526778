"""Steps that run in parallel, in threads."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from natproxy.client import Interrupted
from natproxy.client.retry import Cancellation
from natproxy.client.transfer.parallel import Ahead, Workers, run_parallel


class RunParallelTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.stop = Cancellation()
        self.interrupt = mock.Mock()

    def run_all(self, steps: list[Callable[[], object]], width: int) -> list[object]:
        return run_parallel(steps, width, self.stop, self.interrupt)

    def assert_not_stopped(self) -> None:
        self.stop.check()
        self.interrupt.assert_not_called()

    def test_results_are_in_order_however_many_there_are(self) -> None:
        for count in (0, 1, 2, 50):
            for width in (1, 2, 7, 64):
                steps: list[Callable[[], object]] = [lambda n=n: n * n for n in range(count)]  # type: ignore[misc]
                self.assertEqual(self.run_all(steps, width), [n * n for n in range(count)])
        self.assert_not_stopped()

    def test_iterator_advances_only_when_a_thread_is_free(self) -> None:
        taken = done = 0
        lock = threading.Lock()

        def steps() -> Iterator[Callable[[], None]]:
            nonlocal taken
            for _ in range(1000):
                taken += 1
                # One step for each thread, and one that is read ahead at the start.
                self.assertLessEqual(taken - done, 5)
                yield step

        def step() -> None:
            nonlocal done
            with lock:
                done += 1

        self.assertEqual(run_parallel(steps(), 3, self.stop, self.interrupt), [None] * 1000)

    def test_one_step_or_one_at_a_time_needs_no_thread(self) -> None:
        here = threading.current_thread()
        self.assertEqual(self.run_all([threading.current_thread], 9), [here])
        self.assertEqual(self.run_all([threading.current_thread] * 3, 1), [here] * 3)

    def test_no_more_steps_than_the_width_run_at_once(self) -> None:
        barrier = threading.Barrier(3)
        lock = threading.Lock()
        running = most = 0

        def step() -> None:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            barrier.wait(10)
            with lock:
                running -= 1
            barrier.wait(10)

        self.run_all([step] * 6, 3)
        self.assertEqual(most, 3)

    def test_fewer_threads_than_the_width(self) -> None:
        start = threading.Thread.start
        for allowed in (0, 1, 2):
            started: list[threading.Thread] = []

            def limited(
                thread: threading.Thread,
                started: list[threading.Thread] = started,
                allowed: int = allowed,
            ) -> None:
                if len(started) == allowed:
                    raise RuntimeError("can't start new thread")
                started.append(thread)
                start(thread)

            with mock.patch("threading.Thread.start", limited):
                steps: list[Callable[[], object]] = [lambda n=n: n for n in range(9)]  # type: ignore[misc]
                self.assertEqual(self.run_all(steps, 4), list(range(9)))

    def test_failure_is_raised_after_the_other_steps_have_ended(self) -> None:
        begun = threading.Barrier(3)
        failed = threading.Event()
        ended: list[int] = []

        def fail() -> None:
            begun.wait(10)
            failed.set()
            raise ZeroDivisionError

        def go_on() -> None:
            begun.wait(10)
            failed.wait(10)
            ended.append(1)

        self.assertRaises(ZeroDivisionError, self.run_all, [go_on, fail, go_on], 3)
        self.assertEqual(ended, [1, 1])
        self.assert_not_stopped()

    def test_no_step_starts_after_a_failure(self) -> None:
        begun: list[int] = []
        never = threading.Event()

        def fail() -> None:
            raise ZeroDivisionError

        def step() -> None:
            begun.append(1)
            never.wait(0.05)

        self.assertRaises(ZeroDivisionError, self.run_all, [step, fail, *[step] * 100], 2)
        # The other thread may have started another step before the failure was visible.
        self.assertLess(len(begun), 20)
        begun.clear()
        self.assertRaises(ZeroDivisionError, self.run_all, [fail, step], 1)
        self.assertEqual(begun, [])

    def test_interrupt_cancels_all_steps(self) -> None:
        waiting = threading.Barrier(3)
        interrupted = threading.Event()
        ended: list[BaseException] = []

        def wait_for_the_server() -> None:
            waiting.wait(10)
            interrupted.wait(10)
            self.stop.check()

        def sleep() -> None:
            waiting.wait(10)
            try:
                self.stop.sleep(10)
            except Interrupted as error:
                ended.append(error)
                raise

        def press() -> None:
            waiting.wait(10)
            raise KeyboardInterrupt

        never = mock.Mock()
        self.interrupt.side_effect = interrupted.set
        steps = [wait_for_the_server, sleep, never]
        with instead_of_the_first_wait(press):
            self.assertRaises(KeyboardInterrupt, self.run_all, steps, 2)
        self.assertEqual(len(ended), 1)
        never.assert_not_called()
        self.assertRaises(Interrupted, self.stop.check)

    def test_step_that_blocks_late_is_interrupted_again(self) -> None:
        waiting = threading.Barrier(3)
        calls = threading.Semaphore(0)

        def step() -> None:
            waiting.wait(10)
            for _ in range(3):
                # Each `interrupt` ends one blocking call only.
                self.assertTrue(calls.acquire(timeout=10))

        def press() -> None:
            waiting.wait(10)
            raise KeyboardInterrupt

        self.interrupt.side_effect = lambda: calls.release(2)
        with instead_of_the_first_wait(press):
            self.assertRaises(KeyboardInterrupt, self.run_all, [step, step], 2)
        self.assertGreaterEqual(self.interrupt.call_count, 3)


def instead_of_the_first_wait(press: Callable[[], None]) -> mock._patch[mock.Mock]:
    """Simulate Ctrl-C while the calling thread waits for the steps."""
    presses = [press]
    wait = Ahead.wait

    def instead(ahead: Ahead[None]) -> object:
        if presses:
            presses.pop()()
        return wait(ahead)

    return mock.patch.object(Ahead, "wait", instead)


class AheadTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.main = threading.get_ident()
        self.interrupted = threading.Event()
        self.released = threading.Event()
        self.addCleanup(self.released.set)
        handler = signal.signal(signal.SIGUSR1, self.handle)
        self.addCleanup(signal.signal, signal.SIGUSR1, handler)

    def handle(self, _: int, frame: FrameType | None) -> None:
        # Only where it interrupts a wait for the thread.
        while frame is not None and frame.f_code is not Ahead.wait.__code__:
            frame = frame.f_back
        if frame is not None and not self.interrupted.is_set():
            self.interrupted.set()
            raise KeyboardInterrupt

    def step(self) -> str:
        """Interrupt the main thread's wait, and continue until it is released."""
        while not self.interrupted.is_set():
            signal.pthread_kill(self.main, signal.SIGUSR1)
            time.sleep(0.001)
        self.released.wait()
        return "result"

    def test_it_is_waited_for_again_after_an_interrupt(self) -> None:
        ahead = Ahead(self.step)
        self.assertRaises(KeyboardInterrupt, ahead.wait)
        threading.Timer(0.01, self.released.set).start()
        self.assertEqual(ahead.wait(), "result")

    def test_it_is_cancelled_after_an_interrupt(self) -> None:
        ahead = Ahead(self.step)
        self.assertRaises(KeyboardInterrupt, ahead.wait)
        ahead.cancel(self.released.set)
        self.assertTrue(self.released.is_set())
        self.assertEqual(ahead.wait(), "result")

    def test_it_is_done_when_the_step_has_ended(self) -> None:
        ahead = Ahead(self.released.wait)
        self.assertEqual((ahead.done, ahead.succeeded), (False, False))
        self.released.set()
        ahead.wait()
        self.assertEqual((ahead.done, ahead.succeeded), (True, True))

    def test_it_is_done_when_the_step_has_failed(self) -> None:
        def fail() -> None:
            self.released.wait()
            raise ValueError("failed")

        ahead = Ahead(fail)
        self.assertFalse(ahead.done)
        self.released.set()
        self.assertRaises(ValueError, ahead.wait)
        self.assertEqual((ahead.done, ahead.succeeded), (True, False))

    def test_it_is_done_at_once_without_a_thread(self) -> None:
        with mock.patch("threading.Thread.start", side_effect=RuntimeError("no more threads")):
            ahead = Ahead(lambda: "result")
        self.assertTrue(ahead.done)
        self.assertEqual(ahead.wait(), "result")


class WorkersTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.stop = Cancellation()
        self.done: list[threading.Thread] = []

    def step(self) -> None:
        self.done.append(threading.current_thread())

    def test_one_at_a_time_needs_no_thread(self) -> None:
        with Workers(1, self.stop, mock.Mock()) as workers:
            for _ in range(3):
                workers.add(self.step)
            self.assertEqual(self.done, [])
            workers.finish()
        self.assertEqual(self.done, [threading.current_thread()] * 3)

    def test_step_begins_before_the_last_one_is_added(self) -> None:
        begun = threading.Event()
        with Workers(2, self.stop, mock.Mock()) as workers:
            workers.add(begun.set)
            self.assertTrue(begun.wait(10))
            workers.add(self.step)
            workers.finish()
        self.assertEqual(len(self.done), 1)

    def test_failure_is_raised_and_no_step_begins_after_it(self) -> None:
        def fail() -> None:
            raise ZeroDivisionError

        with self.assertRaises(ZeroDivisionError), Workers(1, self.stop, mock.Mock()) as workers:
            workers.add(fail)
            workers.add(self.step)
            workers.finish()
        self.assertEqual(self.done, [])
