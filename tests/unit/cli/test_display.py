"""Which display is chosen, and what the plain ones show."""

from __future__ import annotations

import io
import json
import os
import sys
import threading
from unittest import mock

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from natproxy.cli.display import display_for, text
from natproxy.cli.display.bars import Bars
from natproxy.cli.display.json_lines import JsonLines
from natproxy.cli.display.lines import Lines, Messages
from natproxy.cli.display.tally import Ticker
from natproxy.cli.options import PROGRESS
from natproxy.client.events import Event, Phase

NEVER = 10**6
"""Seconds that do not elapse during a test."""
LOST = "connection lost, trying again in 2 s"


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


class Broken(io.StringIO):
    """A stream whose reader has closed it."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


class ChoosingTests(SynchronousTestCase):
    def chosen(self, how: str, quiet: bool, stream: io.StringIO, term: str = "xterm") -> object:
        with mock.patch.dict(os.environ, {"TERM": term}):
            return type(display_for(how, quiet, stream))

    def test_every_display(self) -> None:
        for how, quiet, terminal, expected in (
            ("auto", False, True, Bars),
            ("auto", False, False, Messages),
            ("auto", True, True, Messages),
            ("auto", True, False, Messages),
            ("always", False, True, Bars),
            ("always", False, False, Lines),
            ("always", True, True, Messages),
            ("always", True, False, Messages),
            ("never", False, True, Messages),
            ("never", False, False, Messages),
            ("never", True, True, Messages),
            ("json", False, True, JsonLines),
            ("json", False, False, JsonLines),
            ("json", True, False, JsonLines),
        ):
            stream = Terminal() if terminal else io.StringIO()
            self.assertIs(self.chosen(how, quiet, stream), expected, (how, quiet, terminal))

    def test_lines_replace_bars(self) -> None:
        for how in ("auto", "always"):
            self.assertIs(self.chosen(how, False, Terminal(), "dumb"), Lines)
            with mock.patch.dict(sys.modules, {"natproxy.cli.display.bars": None}):
                self.assertIs(self.chosen(how, False, Terminal()), Lines)

    def test_other_words_are_refused(self) -> None:
        error = self.assertRaises(ValueError, display_for, "often")
        self.assertEqual(str(error), "often: not one of auto, always, never, json")

    def test_standard_error_is_looked_up_when_it_is_chosen(self) -> None:
        with mock.patch.object(sys, "stderr", io.StringIO()) as stream:
            display_for("never").show_message("hello")
        self.assertEqual(stream.getvalue(), "hello\n")

    def test_closed_stream_is_no_terminal(self) -> None:
        stream = Terminal()
        stream.isatty = mock.Mock(side_effect=ValueError)  # type: ignore[method-assign]
        self.assertIs(self.chosen("auto", False, stream), Messages)

    def test_every_display_survives_a_stream_that_is_broken_or_closed(self) -> None:
        closed = Terminal()
        closed.close()
        for stream in (Broken(), closed):
            for how in PROGRESS:
                with display_for(how, False, stream) as display:
                    display(Event(b"a", Phase.RECEIVING, 0, 10))
                    display(Event(b"a", Phase.RESTARTING, 0, 10, "changed"))
                    display.show_message("hello")
                    display(Event(b"a", Phase.COMPLETE, 10, 10))
                display.close()

    def test_every_display_takes_events_from_several_threads(self) -> None:
        def transfer(display: object, name: bytes) -> None:
            assert callable(display)
            for done in range(1001):
                display(Event(name, Phase.RECEIVING, done, 1000))
            display(Event(name, Phase.COMPLETE, 1000, 1000))

        for how, stream in (("always", Terminal()), ("always", io.StringIO()), ("json", None)):
            stream = stream or io.StringIO()
            with mock.patch.dict(os.environ, {"TERM": "xterm"}):
                display = display_for(how, False, stream)
            with display:
                threads = [
                    threading.Thread(target=transfer, args=(display, b"%d" % number))
                    for number in range(8)
                ]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
            view = display._tally.view()  # type: ignore[attr-defined]
            self.assertEqual((view.files_done, view.received), (8, 8000))


class MessagesTests(SynchronousTestCase):
    def test_reason_of_a_retry_or_restart_is_shown_once(self) -> None:
        stream = io.StringIO()
        with Messages(stream, quiet=False) as display:
            display.expect(1, 10)
            display(Event(b"a\x1b", Phase.RECEIVING, 0, 10))
            for message in (LOST, LOST, LOST.replace("2", "4")):
                display(Event(b"a\x1b", Phase.WAITING, 0, 10, message))
            display(Event(b"a\x1b", Phase.RESTARTING, 0, 10, "changed"))
            display(Event(b"a\x1b", Phase.FAILED, 0, 10, "the caller reports it"))
        self.assertEqual(
            stream.getvalue().splitlines(),
            [f"a\\x1b: {LOST}", f"a\\x1b: {LOST.replace('2', '4')}", "a\\x1b: changed"],
        )

    def test_quiet_display_shows_nothing(self) -> None:
        stream = io.StringIO()
        with Messages(stream, quiet=True) as display:
            display.show_message("hello")
            display(Event(b"a", Phase.WAITING, 0, 10, LOST))
        self.assertEqual(stream.getvalue(), "")

    def test_message_stays_on_its_line(self) -> None:
        stream = io.StringIO()
        Messages(stream, quiet=False).show_message("a\nb\x1b[2J\u202e\udc80 ü")
        self.assertEqual(stream.getvalue(), "a\\nb\\x1b[2J\\u202e\\udc80 ü\n")


class LinesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.stream = io.StringIO()
        self.display = Lines(self.stream, self.clock.seconds, NEVER)

    def shown(self) -> list[str]:
        lines = self.stream.getvalue().splitlines()
        self.stream.seek(0)
        self.stream.truncate()
        return lines

    def ticked(self, seconds: float = 5) -> list[str]:
        self.clock.advance(seconds)
        self.display.tick()
        return self.shown()

    def test_files_that_are_received_together(self) -> None:
        show = self.display
        show.expect(3, 3000)
        show(Event(b"", Phase.RECEIVING, 2000, None, files=2))
        self.assertEqual(self.ticked(), ["2 of 3 files, 66%, 2.0/3.0 kB, 400 B/s, eta 2s"])
        self.assertEqual(self.ticked(), [])
        show(Event(b"a", Phase.COMPLETE, 1000, 1000))
        self.assertEqual(self.shown(), ["a: complete, 1.0 kB"])

    def test_one_file(self) -> None:
        show = self.display
        self.assertEqual(self.ticked(), [])
        show(Event(b"a", Phase.HASHING, 0, 10**10))
        show(Event(b"a", Phase.HASHING, 5 * 10**9, 10**10))
        self.assertEqual(self.ticked(), ["a: hashing, 5.0/10.0 GB, 1.0 GB/s"])
        show(Event(b"a", Phase.VERIFYING, 0, 10**10))
        self.assertEqual(self.ticked(), ["a: verifying"])
        show(Event(b"a", Phase.RECEIVING, 5 * 10**9, 10**10))
        show(Event(b"a", Phase.RECEIVING, 6 * 10**9, 10**10))
        self.assertEqual(self.ticked(), ["a: 60%, 6.0/10.0 GB, 200 MB/s, eta 20s"])
        show(Event(b"a", Phase.WAITING, 6 * 10**9, 10**10, LOST))
        self.assertEqual(self.shown(), [f"a: {LOST}"])
        show(Event(b"a", Phase.SAVING, 10**10, 10**10))
        self.assertEqual(self.ticked(0), ["a: saving"])
        show(Event(b"a", Phase.COMPLETE, 10**10, 10**10))
        self.assertEqual(self.shown(), ["a: complete, 10.0 GB in 15s, 333 MB/s"])
        self.assertEqual(self.ticked(), [])

    def test_size_that_is_not_known(self) -> None:
        self.display(Event(b"a", Phase.RECEIVING, 0, None))
        self.display(Event(b"a", Phase.RECEIVING, 5000, None))
        self.assertEqual(self.ticked(), ["a: 5.0 kB, 1.0 kB/s"])

    def test_several_files(self) -> None:
        show = self.display
        show.expect(4, 4000)
        show(Event(b"a", Phase.UNCHANGED, 1000, 1000))
        show(Event(b"b", Phase.FAILED, 0, 1000, "no"))
        self.assertEqual(self.shown(), [])
        show(Event(b"c", Phase.RECEIVING, 0, 1000))
        show(Event(b"c", Phase.RECEIVING, 500, 1000))
        self.assertEqual(
            self.ticked(),
            ["1 of 4 files, 1 failed, 37%, 1.5/4.0 kB, 100 B/s, eta 15s"],
        )
        show(Event(b"c", Phase.COMPLETE, 1000, 1000))
        self.assertEqual(self.shown(), ["c: complete, 1.0 kB in 5.0s, 200 B/s"])
        show(Event(b"\xff", Phase.HASHING, 0, 1000))
        self.assertEqual(self.ticked(), ["2 of 4 files, 1 failed, 50%, 2.0/4.0 kB, hashing \\xff"])

    def test_thread_ends_with_the_display(self) -> None:
        thread = self.display._ticker._thread
        with self.display:
            self.assertTrue(thread.is_alive())
        self.display.close()
        self.assertFalse(thread.is_alive())


class JsonLinesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.stream = io.StringIO()
        self.display = JsonLines(self.stream, False, self.clock.seconds, NEVER)

    def shown(self) -> list[dict[str, object]]:
        text = self.stream.getvalue()
        self.assertTrue(text.isascii())
        self.stream.seek(0)
        self.stream.truncate()
        return [json.loads(line) for line in text.splitlines()]

    def test_small_files_that_end_together_have_a_line_each_and_new_totals_at_times(self) -> None:
        self.display.expect(4, 4000)
        self.display(Event(b"", Phase.RECEIVING, 4000, None))
        self.assertEqual(self.shown(), [])
        for number in range(3):
            self.display(Event(b"%d" % number, Phase.COMPLETE, 1000, 1000))
        lines = self.shown()
        self.assertEqual([line["event"]["name"] for line in lines], ["0", "1", "2"])  # type: ignore[index]
        self.assertEqual({line["files"]["done"] for line in lines}, {1})  # type: ignore[index]
        self.clock.advance(0.1)
        self.display(Event(b"3", Phase.COMPLETE, 1000, 1000))
        (line,) = self.shown()
        self.assertEqual(line["files"], {"done": 4, "unchanged": 0, "failed": 0, "total": 4})
        self.display.close()
        self.assertTrue(self.shown()[0]["ended"])

    def test_tick_writes_the_whole_state(self) -> None:
        self.display.expect(3, 12000)
        self.display(Event(b"a", Phase.UNCHANGED, 3000, 3000))
        self.shown()
        self.display(Event(b"b", Phase.RECEIVING, 1000, 5000))
        self.clock.advance(2)
        self.display(Event(b"b", Phase.RECEIVING, 2000, 5000))
        self.display.tick()
        (line,) = self.shown()
        self.assertEqual(
            line,
            {
                "time": 2.0,
                "files": {"done": 1, "unchanged": 1, "failed": 0, "total": 3},
                "bytes": {"done": 5000, "total": 12000, "fetched": 1000, "per_second": 500},
                "seconds_left": 14.0,
                "current": [{"name": "b", "phase": "receiving", "done": 2000, "size": 5000}],
            },
        )

    def test_saving_is_a_phase(self) -> None:
        self.display(Event(b"a", Phase.SAVING, 10, 10))
        self.display.tick()
        (line,) = self.shown()
        self.assertEqual(
            line["current"], [{"name": "a", "phase": "saving", "done": 10, "size": 10}]
        )

    def test_some_phases_have_a_line_with_their_message(self) -> None:
        for phase, message in (
            (Phase.HASHING, ""),
            (Phase.VERIFYING, ""),
            (Phase.RESTARTING, "changed"),
            (Phase.RECEIVING, ""),
            (Phase.WAITING, LOST),
            (Phase.WAITING, LOST),
            (Phase.COMPLETE, ""),
        ):
            self.display(Event(b"a", phase, 0, 10, message))
        about = {"name": "a", "done": 0, "size": 10}
        self.assertEqual(
            [line.get("event") for line in self.shown()],
            [
                {**about, "phase": "restarting", "message": "changed"},
                {**about, "phase": "waiting", "message": LOST},
                {**about, "phase": "complete"},
            ],
        )

    def test_last_line_is_written_once_and_nothing_follows_it(self) -> None:
        thread = self.display._ticker._thread
        with self.display:
            self.assertTrue(thread.is_alive())
        self.assertFalse(thread.is_alive())
        self.display.close()
        self.display.tick()
        self.display.show_message("hello")
        (line,) = self.shown()
        self.assertIs(line["ended"], True)
        self.assertEqual(line["files"], {"done": 0, "unchanged": 0, "failed": 0, "total": 0})

    def test_there_are_no_totals_while_more_is_listed(self) -> None:
        self.display.expect(7, 7000, more=True)
        self.display.tick()
        (line,) = self.shown()
        self.assertEqual(
            line["files"], {"done": 0, "unchanged": 0, "failed": 0, "total": None, "listed": 7}
        )
        self.assertEqual((line["bytes"]["total"], line["seconds_left"]), (None, None))

    def test_name_that_is_not_utf8_comes_back_as_it_was(self) -> None:
        name = b'\xff\n"\\ \xc3\xbc'
        self.display(Event(name, Phase.COMPLETE, 1, 1))
        self.assertIn(r"\udcff", self.stream.getvalue())
        (line,) = self.shown()
        event = line["event"]
        assert isinstance(event, dict)
        self.assertEqual(event["name"].encode("utf-8", "surrogateescape"), name)

    def test_messages_are_objects_unless_quiet(self) -> None:
        self.display.show_message("hello")
        (line,) = self.shown()
        self.assertEqual(line["message"], "hello")
        display = JsonLines(self.stream, True, self.clock.seconds, NEVER)
        display.show_message("hello")
        self.assertEqual(self.shown(), [])
        display(Event(b"a", Phase.WAITING, 0, 1, LOST))
        self.assertEqual(len(self.shown()), 1)


class TickerTests(SynchronousTestCase):
    def test_ticks_until_it_is_stopped(self) -> None:
        ticks = threading.Semaphore(0)
        ticker = Ticker(0.001, ticks.release)
        ticker.start()
        for _ in range(3):
            self.assertTrue(ticks.acquire(timeout=10))
        ticker.stop()
        self.assertFalse(ticker._thread.is_alive())
        ticker.stop()

    def test_stops_before_it_has_begun(self) -> None:
        Ticker(1, self.fail).stop()


class TextTests(SynchronousTestCase):
    def test_amounts(self) -> None:
        for size, expected in (
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (99949, "99.9 kB"),
            (99950, "100 kB"),
            (999499, "999 kB"),
            (999500, "1.0 MB"),
            (10**21, "1000 EB"),
        ):
            self.assertEqual(text.amount(size), expected)
        self.assertEqual(text.part_of(0, 10**10), "0.0/10.0 GB")

    def test_times(self) -> None:
        for seconds, expected in (
            (0.9, "0s"),
            (59.9, "59s"),
            (200, "3m20s"),
            (7500, "2h05m"),
            (270000, "3d03h"),
            (float("inf"), "999d00h"),
        ):
            self.assertEqual(text.duration(seconds), expected)
        self.assertEqual(text.elapsed(0.44), "0.4s")
        self.assertEqual(text.elapsed(9.96), "9s")

    def test_per_cents_are_rounded_down(self) -> None:
        self.assertEqual(text.percent(999, 1000), "99%")
        self.assertEqual(text.percent(0, 0), "100%")
        self.assertEqual(text.percent(2000, 1000), "100%")
        self.assertEqual(text.percent(1, None), "")
