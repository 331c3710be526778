"""The daemons' log: its times, its bounded size, and what it survives."""

from __future__ import annotations

import fcntl
import os
import select
import time
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import Logger, LogLevel, formatEventAsClassicLogText
from twisted.python.failure import Failure

from natproxy.daemon import logfile
from natproxy.daemon.logfile import (
    DELAY,
    MOST,
    LogWriter,
    RotatingFile,
    SharedStream,
    Stream,
    format_line,
    format_time,
)

RUN = "import sys; from twisted.scripts.twistd import run; sys.argv[0] = 'twistd'; run()"
MICROSECONDS = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"
PATIENCE = 30.0


def event(text: str, when: float = 0.0) -> dict[str, Any]:
    return {
        "log_format": "{text}",
        "text": text,
        "log_time": when,
        "log_namespace": "test",
        "log_level": LogLevel.info,
    }


def test_times_are_utc_with_microseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert format_time(1_764_107_601.25) == "2025-11-25T21:53:21.250000Z"
        assert format_time(0) == "1970-01-01T00:00:00.000000Z"
        assert format_time(None) == "-"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_event_is_a_line(tmp_path: Path) -> None:
    writer = LogWriter(RotatingFile(str(tmp_path / "log")))
    writer(event("one\ud800\nmore"))
    writer({"log_format": ""})
    assert (tmp_path / "log").read_bytes() == (
        b"1970-01-01T00:00:00.000000Z [test#info] one\\ud800\n\tmore\n"
    )


def test_line_of_a_plain_text_is_as_twisted_formats_it() -> None:
    plain = event("a {brace}\nand more", 1_764_107_601.25)
    assert format_line(plain) == formatEventAsClassicLogText(plain, format_time)
    failed = {**plain, "log_failure": Failure(ValueError("wrong"))}
    assert "ValueError: wrong" in str(format_line(failed))
    legacy = {**plain, "log_system": "old"}
    assert "[old] a {brace}" in str(format_line(legacy))


def test_times_of_one_second_differ_in_their_fraction() -> None:
    assert [format_time(when)[-10:] for when in (0.0, 0.25, 0.999_999_7, -0.5)] == [
        "00.000000Z",
        "00.250000Z",
        "01.000000Z",
        "59.500000Z",
    ]


def test_file_that_exists_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"old\n")
    RotatingFile(str(path)).write(b"new\n")
    assert path.read_bytes() == b"old\nnew\n"


def test_file_is_rotated_and_the_number_of_files_is_bounded(tmp_path: Path) -> None:
    file = RotatingFile(str(tmp_path / "log"), size=10, kept=2)
    for number in range(9):
        file.write(b"line %d\n" % number)
    contents = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert contents == {"log": b"line 8\n", "log.1": b"line 7\n", "log.2": b"line 6\n"}


def test_rotation_renames_no_more_files_than_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 1000):
        (tmp_path / f"log.{number}").touch()
    file = RotatingFile(str(tmp_path / "log"), size=10, kept=3)
    renamed = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *names: (renamed.append(names), replace(*names)))
    file.write(b"0123456789")
    file.write(b"0123456789")
    assert len(renamed) == 3


def test_size_of_a_file_that_exists_counts(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"123456789\n")
    RotatingFile(str(path), size=10, kept=1).write(b"x\n")
    assert (path.read_bytes(), (tmp_path / "log.1").read_bytes()) == (b"x\n", b"123456789\n")


def test_no_rotated_files_are_kept_if_none_are_wanted(tmp_path: Path) -> None:
    file = RotatingFile(str(tmp_path / "log"), size=10, kept=0)
    for _ in range(5):
        file.write(b"123456789\n")
    assert os.listdir(tmp_path) == ["log"]
    assert (tmp_path / "log").read_bytes() == b"123456789\n"


def test_rotation_can_be_left_to_others(tmp_path: Path) -> None:
    file = RotatingFile(str(tmp_path / "log"), size=0)
    for _ in range(100):
        file.write(b"123456789\n")
    assert os.listdir(tmp_path) == ["log"]


def test_long_line_goes_into_an_empty_file(tmp_path: Path) -> None:
    file = RotatingFile(str(tmp_path / "log"), size=10, kept=5)
    file.write(b"a line longer than that\n")
    assert os.listdir(tmp_path) == ["log"]


def test_file_that_cannot_be_rotated_is_written_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = RotatingFile(str(tmp_path / "log"), size=10, kept=1)

    def refuse(*_: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    for _ in range(3):
        file.write(b"123456789\n")
    assert (tmp_path / "log").read_bytes() == b"123456789\n" * 3
    monkeypatch.undo()
    file.write(b"123456789\n")
    assert (tmp_path / "log").read_bytes() == b"123456789\n"


def test_only_regular_files_are_renamed(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        log = RotatingFile(str(pipe), 10, 2)
        for _ in range(5):
            log.write(b"12345678\n")
        log.close()
    finally:
        os.close(reader)
    null = RotatingFile(os.devnull, 10, 2)
    # It must not come to that: as root it would succeed.
    assert not null._can_be_renamed()
    null.close()
    assert [entry.name for entry in tmp_path.iterdir()] == ["pipe"]


def test_pipe_that_is_full_or_not_read_does_not_stop_the_daemon(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="No such device"):
        RotatingFile(str(pipe))
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        complaints: list[str] = []
        file = RotatingFile(str(pipe))
        writer = LogWriter(file, complaints.append)
        for _ in range(100):
            writer(event("x" * 4000))
        assert len(complaints) == 1
        file.close()
    finally:
        os.close(reader)


def test_pipe_that_a_thread_writes_waits_for_its_reader(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        for blocking in (False, True):
            file = RotatingFile(str(path), size=0, blocking=blocking)
            assert os.get_blocking(file._descriptor) is blocking
            assert file.write_some(memoryview(b"a line\n")) == 7
            file.close()
        assert os.read(reader, 100) == b"a line\n" * 2
    finally:
        os.close(reader)


def test_thread_that_writes_does_not_rotate_the_file(
    tmp_path: Path,
) -> None:
    file = RotatingFile(str(tmp_path / "log"), size=0, blocking=True)
    for _ in range(100):
        assert file.write_some(memoryview(b"123456789\n")) == 10
    assert file.reopen()
    assert os.get_blocking(file._descriptor)
    file.close()
    assert os.listdir(tmp_path) == ["log"]


def test_write_to_a_full_pipe_goes_on_when_its_reader_does(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    file = RotatingFile(str(path), size=0, blocking=True)
    written: list[int] = []
    line = b"x" * 99 + b"\n"
    try:
        size = fcntl.fcntl(reader, fcntl.F_GETPIPE_SZ)
        file.write_some(memoryview(bytes(size)))
        thread = Thread(
            target=lambda: written.append(file.write_some(memoryview(line))), daemon=True
        )
        thread.start()
        assert os.read(reader, size) == bytes(size)
        thread.join(PATIENCE)
        assert written == [len(line)]
        assert os.read(reader, size) == line
    finally:
        os.close(reader)
        file.close()


def test_two_daemons_rotate_one_file_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    first, second = RotatingFile(str(path), 100, 3), RotatingFile(str(path), 100, 3)
    first.write(b"a" * 90)
    first.write(b"b" * 20)
    second.write(b"c" * 60)
    # What it would rename is the first one's new file.
    second.write(b"d" * 60)
    first.close()
    second.close()
    assert path.read_bytes() == b"b" * 20 + b"d" * 60
    assert (tmp_path / "log.1").read_bytes() == b"a" * 90 + b"c" * 60
    assert not (tmp_path / "log.2").exists()


def test_lines_that_are_lost_do_not_lead_to_a_rotation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RotatingFile(str(tmp_path / "log"), 100, 1)
    log.write(b"kept\n")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(logfile, "_write_all", full)
        for _ in range(50):
            with pytest.raises(OSError, match="No space"):
                log.write(b"lost line\n")
    log.write(b"again\n")
    log.close()
    assert (tmp_path / "log").read_bytes() == b"kept\nagain\n"
    assert not (tmp_path / "log.1").exists()


def test_file_is_opened_again_under_its_name(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = RotatingFile(str(path))
    file.write(b"before\n")
    path.rename(tmp_path / "log.old")
    file.write(b"between\n")
    file.reopen()
    file.write(b"after\n")
    assert (tmp_path / "log.old").read_bytes() == b"before\nbetween\n"
    assert path.read_bytes() == b"after\n"


def test_file_that_cannot_be_opened_again_is_written_on(tmp_path: Path, events: list[Any]) -> None:
    (tmp_path / "logs").mkdir()
    file = RotatingFile(str(tmp_path / "logs" / "log"))
    (tmp_path / "logs").rename(tmp_path / "old")
    file.reopen()
    file.write(b"after\n")
    assert (tmp_path / "old" / "log").read_bytes() == b"after\n"
    assert [one["log_level"] for one in events] == [LogLevel.error]
    file.close()


def test_path_is_found_after_a_change_of_the_working_directory(tmp_path: Path) -> None:
    file = RotatingFile("log")
    (tmp_path / "elsewhere").mkdir()
    os.chdir(tmp_path / "elsewhere")
    file.reopen()
    assert os.listdir() == []


class Full:
    """A destination that is full for a while."""

    def __init__(self) -> None:
        self.full = False
        self.data = b""

    def write(self, data: bytes) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        self.data += data


def test_lines_that_cannot_be_written_are_counted() -> None:
    full = Full()
    complaints: list[str] = []
    writer = LogWriter(full, complaints.append)
    writer(event("one"))
    full.full = True
    for _ in range(3):
        writer(event("lost"))
    full.full = False
    writer(event("two"))
    writer(event("three"))
    assert [line.partition(b"] ")[2] or line for line in full.data.split(b"\n")] == [
        b"one",
        b"",
        b"natproxy: 3 log entries were lost: No space left on device",
        b"two",
        b"three",
        b"",
    ]
    assert complaints == ["natproxy: cannot write the log: No space left on device\n"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
class Destination:
    """Counts writes; fails if told to."""

    def __init__(self) -> None:
        self.writes: list[str] = []
        self.full = False

    def write(self, data: bytes) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        self.writes.append(data.decode())


def note(writer: LogWriter, number: int) -> None:
    writer.note("test.commands", float(number), "command {}".format, number)


def test_noted_lines_are_written_together_and_in_their_order() -> None:
    destination, clock = Destination(), Clock()
    writer = LogWriter(destination, formatted=lambda event: f"{event['text']}\n")
    writer.delay(clock)
    note(writer, 1)
    note(writer, 2)
    assert destination.writes == []
    clock.advance(DELAY)
    assert destination.writes == [
        "1970-01-01T00:00:01.000000Z [test.commands#info] command 1\n"
        "1970-01-01T00:00:02.000000Z [test.commands#info] command 2\n"
    ]
    note(writer, 3)
    writer(event("an error"))
    assert destination.writes[1].endswith("command 3\nan error\n")
    clock.advance(DELAY)
    assert (len(destination.writes), clock.getDelayedCalls()) == (2, [])


def test_event_without_a_line_does_not_hold_back_those_that_are_noted() -> None:
    destination = Destination()
    writer = LogWriter(destination, formatted=lambda event: None)
    writer.delay(Clock())
    writer(event("left out"))
    assert destination.writes == []
    note(writer, 1)
    writer(event("left out"))
    assert len(destination.writes) == 1


def test_many_noted_lines_are_written_at_once() -> None:
    destination, clock = Destination(), Clock()
    writer = LogWriter(destination)
    writer.delay(clock)
    for number in range(2 * MOST + 1):
        note(writer, number)
    assert [text.count("\n") for text in destination.writes] == [MOST, MOST]
    assert len(clock.getDelayedCalls()) == 1
    writer.flush()
    assert len(destination.writes) == 3
    assert "command 128" in destination.writes[-1]


def test_lines_are_not_delayed_without_a_reactor() -> None:
    destination = Destination()
    note(LogWriter(destination), 1)
    assert len(destination.writes) == 1


def test_each_line_that_is_lost_is_counted() -> None:
    destination, clock = Destination(), Clock()
    reports: list[str] = []
    writer = LogWriter(destination, reports.append)
    writer.delay(clock)
    destination.full = True
    for number in range(3):
        note(writer, number)
    clock.advance(DELAY)
    writer(event("one more"))
    destination.full = False
    writer(event("last"))
    assert "4 log entries were lost: No space left on device" in destination.writes[0]
    assert len(reports) == 1


def test_full_disk_raises_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    try:
        writer = LogWriter(Stream(descriptor))
        for _ in range(3):
            writer(event("lost"))
    finally:
        os.close(descriptor)


def test_short_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    file = RotatingFile(str(tmp_path / "log"))
    monkeypatch.setattr(logfile.os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    file.write(b"0123456789\n")
    monkeypatch.undo()
    assert (tmp_path / "log").read_bytes() == b"0123456789\n"


def test_limits_can_be_changed_while_it_is_open(tmp_path: Path) -> None:
    file = RotatingFile(str(tmp_path / "log"), size=0)
    file.write(b"x" * 10)
    file.limit(12, 1)
    for _ in range(3):
        file.write(b"y" * 10)
    file.close()
    assert sorted(os.listdir(tmp_path)) == ["log", "log.1"]


def test_events_below_the_level_are_left_out(tmp_path: Path) -> None:
    file = RotatingFile(str(tmp_path / "log"))
    writer = LogWriter(file)
    log = Logger(namespace="a", observer=writer)

    def lines() -> list[str]:
        log.debug("debug")
        log.info("info")
        writer.note("b", 0.0, lambda: "note")
        log.warn("warn")
        log.error("error")
        log.critical("critical")
        text = (tmp_path / "log").read_text()
        (tmp_path / "log").write_text("")
        return [line.split()[-1] for line in text.splitlines()]

    everything = ["debug", "info", "note", "warn", "error", "critical"]
    for level, expected in (
        (LogLevel.debug, everything),
        (LogLevel.info, everything[1:]),
        (LogLevel.warn, everything[3:]),
        (LogLevel.error, everything[4:]),
    ):
        writer.level = level
        assert lines() == expected
    file.close()


def test_shared_stream_writes_lines_that_a_pipe_takes_undivided() -> None:
    reader, writer = os.pipe()
    try:
        line = b"a" * 99 + b"\n"
        longer = b"a" * (2 * select.PIPE_BUF) + b"\n"
        for data, expected in (
            (line * 3, line * 3),
            (line * 100, line * (select.PIPE_BUF // 100)),
            (longer, longer),
        ):
            written = SharedStream(writer).write_some(memoryview(data))
            assert os.read(reader, len(data)) == expected
            assert written == len(expected)
    finally:
        os.close(reader)
        os.close(writer)
