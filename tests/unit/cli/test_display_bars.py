"""The bars, drawn on terminals of several sizes."""

from __future__ import annotations

import io
import os
import sys
from unittest import mock

from rich.cells import cell_len
from rich.console import Console
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from natproxy.cli.display.bars import Bars
from natproxy.cli.display.drawing import Canvas, middle_cut
from natproxy.cli.display.tally import Tally
from natproxy.client.events import Event, Phase

MB = 10**6
HOSTILE = (b"[red]x[/red]", b"[/]", b"\x1b[2J\r\n\xff", "日本語".encode() * 30, b":smile:", b"")


class DrawingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.tally = Tally(self.clock.seconds)
        self.canvas = Canvas("#", "", ".", ".")

    def add(self, name: bytes, phase: Phase, done: int, size: int | None, why: str = "") -> None:
        self.tally.add(Event(name, phase, done, size, why))

    def drawn(self, width: int = 80, height: int = 24, moving: bool = True) -> list[str]:
        lines = [line.plain for line in self.canvas.lines(self.tally.view(), width, height, moving)]
        for line in lines:
            self.assertLess(cell_len(line), max(2, width), line)
        return [line.rstrip() for line in lines]

    def test_receiving(self) -> None:
        self.add(b"big.iso", Phase.RECEIVING, 400 * MB, 1000 * MB)
        self.clock.advance(1)
        self.add(b"big.iso", Phase.RECEIVING, 500 * MB, 1000 * MB)
        self.assertEqual(
            self.drawn(),
            ["big.iso  receiving  ############.............    0.5/1.0 GB 100 MB/s     eta 5s"],
        )
        self.assertEqual(self.drawn(40), ["big.iso  #######.......  50%     eta 5s"])

    def test_saving(self) -> None:
        self.add(b"big.iso", Phase.RECEIVING, 0, 1000 * MB)
        self.add(b"big.iso", Phase.RECEIVING, 1000 * MB, 1000 * MB)
        self.add(b"big.iso", Phase.SAVING, 1000 * MB, 1000 * MB)
        self.assertEqual(
            self.drawn(), ["big.iso  saving     #########################    1.0/1.0 GB"]
        )
        self.assertEqual(self.drawn(40), ["big.iso  saving ################## 100%"])

    def test_hashing_has_a_bar_of_its_own(self) -> None:
        self.add(b"big.iso", Phase.HASHING, 0, 1000 * MB)
        self.clock.advance(1)
        self.add(b"big.iso", Phase.HASHING, 500 * MB, 1000 * MB)
        self.assertEqual(
            self.drawn(),
            ["big.iso  hashing    ############.............    0.5/1.0 GB 500 MB/s"],
        )
        self.assertEqual(self.drawn(40), ["big.iso  hashing ########.........  50%"])

    def test_verifying_moves_back_and_forth(self) -> None:
        self.add(b"big.iso", Phase.VERIFYING, 0, 1000 * MB)
        seen = set()
        for _ in range(60):
            self.clock.advance(0.125)
            (line,) = self.drawn()
            self.assertEqual(line.count("#"), 6)
            self.assertTrue(line.endswith(" 1.0 GB"), line)
            seen.add(line.index("#"))
        self.assertGreater(len(seen), 10)
        self.assertNotIn("#", self.drawn(moving=False)[0])

    def test_waiting_shows_the_reason(self) -> None:
        self.add(b"big.iso", Phase.WAITING, 0, 1000 * MB, "connection lost,\ntrying again in 2 s")
        (line,) = self.drawn()
        self.assertEqual(line, "big.iso  waiting    connection lost,\\ntrying again in 2 s")
        self.assertEqual(self.drawn(30), ["big.iso  waiting connection l"])

    def test_unknown_size(self) -> None:
        self.add(b"a", Phase.RECEIVING, 500 * MB, None)
        (line,) = self.drawn()
        self.assertTrue(line.endswith(" 500 MB"), line)
        self.assertEqual(line.count("#"), 6)

    def test_three_files_stay_visible_and_four_do_not(self) -> None:
        self.tally.expect(3, 30 * MB)
        self.clock.advance(2)
        for name, phase in (
            (b"a", Phase.COMPLETE),
            (b"b", Phase.UNCHANGED),
            (b"c", Phase.FAILED),
        ):
            self.add(name, phase, 10 * MB, 10 * MB)
        self.assertEqual(
            self.drawn(),
            [
                "a           complete   ######################       10.0 MB             in 0.0s",
                "b           unchanged",
                "c           failed",
                "2 of 3 files, 1 failed ##############........  20.0/30.0 MB 5.0 MB/s    in 2.0s",
            ],
        )
        self.add(b"d", Phase.RECEIVING, 0, 10 * MB)
        self.assertEqual([line[:12] for line in self.drawn()], ["d           ", "2 of 4 files"])
        self.assertEqual([line[:12] for line in self.drawn(moving=False)], ["2 of 4 files"])
        self.assertEqual(self.drawn(40)[1][:12], "2/4         ")

    def test_total_of_files_whose_sizes_are_not_all_known(self) -> None:
        self.tally.expect(4, None)
        self.add(b"a", Phase.COMPLETE, 10, 10)
        (total,) = self.drawn(40)
        self.assertIn(" 25%", total)

    def test_numbers_of_files_are_never_cut(self) -> None:
        self.tally.expect(100_000, 400 * MB)
        self.add(b"a", Phase.UNCHANGED, 10, 10)
        wide, narrow = self.drawn()[-1], self.drawn(40)[-1]
        self.assertTrue(wide.startswith("1 of 100000 files      ."), wide)
        self.assertTrue(narrow.startswith("1/100000      ."), narrow)
        self.tally.add(Event(b"", Phase.RECEIVING, 200 * MB, None, files=99_999))
        self.assertTrue(self.drawn()[-1].startswith("100000 of 100000 files #"))
        self.assertTrue(self.drawn(40)[-1].startswith("100000/100000 #"))

    def test_what_does_not_fit_is_counted(self) -> None:
        for number in range(30):
            self.add(b"file %d" % number, Phase.RECEIVING, 0, 10)
        lines = self.drawn(80, 10)
        self.assertEqual(len(lines), 9)
        self.assertEqual(lines[-2], "and 23 more")
        self.assertEqual(lines[-1][:13], "0 of 30 files")
        self.assertEqual(len(self.drawn(80, 1)), 3)

    def test_hostile_names_on_terminals_of_any_width(self) -> None:
        for name in HOSTILE:
            for phase in Phase:
                self.add(name, phase, 1, 2, "[bold]\x1b" * 30)
                for width in (1, 2, 5, 10, 20, 40, 65, 66, 80, 200):
                    for line in self.drawn(width):
                        self.assertTrue(line.isprintable(), line)

    def test_long_names_lose_their_middle(self) -> None:
        self.assertEqual(middle_cut("short", 8), "short   ")
        self.assertEqual(middle_cut("a-long-name.tar.gz", 12), "a-lon..ar.gz")
        self.assertEqual(middle_cut("a-long-name", 4), "a-me")
        self.assertEqual(middle_cut("a-long-name", 1), "a")
        self.assertEqual(cell_len(middle_cut("日本語ファイル", 9)), 9)

    def test_names_do_not_make_the_bars_jump(self) -> None:
        self.add(b"a longer name", Phase.RECEIVING, 0, 10)
        before = self.drawn()[0].index(".")
        self.add(b"a longer name", Phase.COMPLETE, 10, 10)
        for name in (b"b", b"c", b"d"):
            self.add(name, Phase.RECEIVING, 0, 10)
        self.assertEqual(self.drawn()[0].index("."), before)


class BarsTests(SynchronousTestCase):
    def bars(self, width: int = 80) -> Bars:
        self.clock = Clock()
        self.stream = io.StringIO()
        console = Console(
            file=self.stream,
            width=width,
            height=24,
            force_terminal=True,
            force_interactive=True,
            legacy_windows=False,
            get_time=self.clock.seconds,
            _environ={"TERM": "xterm"},
        )
        bars = Bars(self.stream, self.clock.seconds, console)
        self.addCleanup(bars.close)
        return bars

    def test_last_state_stays_and_the_cursor_is_shown(self) -> None:
        for width in (80, 40):
            with self.bars(width) as bars:
                bars(Event(b"[red]x", Phase.RECEIVING, 0, 10 * MB))
                bars(Event(b"[red]x", Phase.COMPLETE, 10 * MB, 10 * MB))
            bars.close()
            shown = self.stream.getvalue()
            self.assertIn("[red]x", shown)
            self.assertIn("━", shown)
            self.assertGreater(shown.rindex("\x1b[?25h"), shown.rindex("\x1b[?25l"))
            self.assertTrue(shown.rstrip("\x1b[?25h").endswith("\n"))

    def test_nothing_is_shown_if_nothing_happens(self) -> None:
        with self.bars() as bars:
            bars.expect(1, 10)
        self.assertEqual(self.stream.getvalue(), "")

    def test_messages_stand_above_and_are_no_markup(self) -> None:
        with self.bars(40) as bars:
            bars.show_message("[bold]before[/bold] \x1b[2J " + "long " * 20)
            bars(Event(b"a", Phase.RECEIVING, 0, 10))
            bars(Event(b"a", Phase.RESTARTING, 0, 10, "changed [on] the server"))
        shown = self.stream.getvalue()
        self.assertIn("[bold]before[/bold] \\x1b[2J " + ("long " * 20).rstrip(), shown)
        self.assertIn("a: changed [on] the server\n", shown)

    def test_close_ends_the_drawing(self) -> None:
        bars = self.bars()
        bars(Event(b"a", Phase.RECEIVING, 0, 10))
        thread = bars._live._refresh_thread
        assert thread is not None
        bars.close()
        thread.join(10)
        bars(Event(b"a", Phase.RECEIVING, 1, 10))
        self.assertFalse(thread.is_alive())
        self.assertIsNone(bars._live._refresh_thread)

    def test_events_are_not_drawn_in_the_thread_of_the_caller(self) -> None:
        bars = self.bars()
        bars(Event(b"a", Phase.RECEIVING, 0, 10))
        with mock.patch.object(bars._live, "refresh") as refresh:
            for done in range(10):
                bars(Event(b"a", Phase.RECEIVING, done, 10))
            callers = [call for call in refresh.mock_calls if call.args]
        self.assertEqual(callers, [])

    def test_background_is_not_drawn_on(self) -> None:
        bars = self.bars()
        with (
            mock.patch.object(self.stream, "fileno", return_value=0),
            mock.patch.object(os, "tcgetpgrp", return_value=os.getpgrp() + 1),
        ):
            bars(Event(b"a", Phase.RECEIVING, 0, 10))
            bars._live.refresh()
            self.assertNotIn("receiving", self.stream.getvalue())
        bars._live.refresh()
        self.assertIn("receiving", self.stream.getvalue())

    def test_terminals_that_show_less(self) -> None:
        for options, full, empty in (
            ({"color_system": None}, "━", " "),
            ({"no_color": True}, "━", " "),
            ({}, "━", "━"),
        ):
            console = Console(file=io.StringIO(), force_terminal=True, **options)
            canvas = Bars(console.file, Clock().seconds, console)._frame._canvas  # type: ignore[arg-type]
            self.assertEqual((canvas.full, canvas.empty), (full, empty))
        stream = io.TextIOWrapper(io.BytesIO(), "ascii")
        self.assertEqual(Bars(stream, Clock().seconds)._frame._canvas.full, "#")

    def test_other_output_on_standard_error_appears_above(self) -> None:
        with mock.patch.object(sys, "stderr", io.StringIO()) as stream:
            with Bars(stream, Clock().seconds) as bars:
                bars(Event(b"a", Phase.RECEIVING, 0, 10))
                self.assertIsNot(sys.stderr, stream)
                self.assertNotIn("rich", type(sys.stdout).__module__)
            self.assertIs(sys.stderr, stream)
