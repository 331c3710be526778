"""The pool of threads: when it starts and when it stops."""

from __future__ import annotations

from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from natproxy.server.threads import Threads


class ThreadsTests(SynchronousTestCase):
    def test_pool_starts_with_its_first_work_and_ends_with_the_reactor(self) -> None:
        triggers: list[Callable[[], None]] = []

        class PlayedReactor:
            def addSystemEventTrigger(
                self, phase: str, event: str, call: Callable[[], None]
            ) -> None:
                triggers.append(call)

            def callFromThread(self, call: Callable[..., None], *arguments: object) -> None:
                call(*arguments)

        threads = Threads(PlayedReactor(), 2, "test")
        threads.stop()
        self.assertEqual(triggers, [])
        threads(lambda: None)
        threads(lambda: None)
        self.assertEqual(len(triggers), 1)
        self.assertTrue(all(thread.daemon for thread in threads._pool.threads))
        triggers[0]()
