"""Settings that are read again while a daemon runs."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from natproxy.daemon.config import without_options
from natproxy.daemon.fileserver_config import FileServerConfig
from natproxy.daemon.proxy_config import ProxyConfig
from natproxy.daemon.reload import (
    TIMEOUT,
    UNEXPECTED,
    WAITING,
    Change,
    LiveSettings,
    Part,
    Reloader,
    Result,
    diff,
)
from natproxy.settings import SettingError
from natproxy.toml_values import to_toml
from tests.support.daemons import at_once
from tests.support.doubles import Journal
from tests.support.logged_errors import LoggedErrorsCase
from tests.support.tables import Visit, VisitedConfig


def change(setting: str, old: object, new: object, source: str) -> Change:
    """Return a change of short values."""
    text = f"{setting} from {to_toml(old)} to {to_toml(new)}"
    return Change(setting, old, new, source, text)


class RecordingPart:
    """A part that notes what it prepares and applies, and can fail."""

    def __init__(self) -> None:
        self.prepared: list[Any] = []
        self.applied: list[Any] = []
        self.error: Exception | None = None
        self.fault: Exception | None = None

    def __call__(self, config: Any) -> Callable[[], object]:
        if self.error is not None:
            raise self.error
        self.prepared.append(config)
        return lambda: self._apply(config)

    def _apply(self, config: Any) -> None:
        if self.fault is not None:
            raise self.fault
        self.applied.append(config)


class ReloadCase(LoggedErrorsCase):
    def setUp(self) -> None:
        super().setUp()
        self.journal = Journal(self)
        self.clock = Clock()
        self.part = RecordingPart()
        self.file = self.mktemp()
        self.write("[proxy]\ntimeout = 1\n")

    def write(self, text: str) -> None:
        with open(self.file, "w") as file:
            file.write(text)

    def load(self, options: dict[str, object] | None = None) -> ProxyConfig:
        return ProxyConfig.load(options or {}, {"NATPROXY_PROXY_DRAIN": "3"}, self.file)

    def make(self, config: Any, *parts: Part[Any]) -> Reloader:
        self.settings = LiveSettings(config, parts or (self.part,))
        return Reloader(self.clock, at_once, self.settings)

    def reload(self, reloader: Reloader, dry_run: bool = False) -> Result:
        return self.successResultOf(reloader.reload("SIGHUP", dry_run))


class DiffTests(SynchronousTestCase):
    def test_fields_that_differ_are_sorted_by_whether_a_reload_may_change_them(self) -> None:
        old = ProxyConfig(timeout=1.0, log="a")
        new = ProxyConfig(timeout=2.0, max_clients=5, listen=("tcp:1",), log="b")
        self.assertEqual(diff(old, new), (("max_clients", "timeout"), ("listen", "log")))

    def test_sources_do_not_count(self) -> None:
        old = ProxyConfig.load({"timeout": "60"}, {})
        self.assertEqual(diff(old, ProxyConfig()), ((), ()))
        self.assertEqual(old, ProxyConfig())


class StartTests(ReloadCase):
    def test_parts_take_the_settings_at_the_start(self) -> None:
        config = self.load()
        self.make(config)
        self.assertEqual((self.part.prepared, self.part.applied), ([config], [config]))

    def test_errors_of_all_parts_are_raised_and_nothing_is_applied(self) -> None:
        first, second, third = RecordingPart(), RecordingPart(), RecordingPart()
        first.error, third.error = SettingError("a", "b"), SettingError("c")
        error = self.assertRaises(SettingError, self.make, self.load(), first, second, third)
        self.assertEqual(error.messages, ("a", "b", "c"))
        self.assertEqual(second.applied, [])


class ReloaderTests(ReloadCase):
    def test_what_a_file_changes(self) -> None:
        reloader = self.make(self.load())
        self.write('[proxy]\ntimeout = 2\nlisten = "tcp:1"\nrelay = "copy"\n')
        result = self.reload(reloader)
        place = f"{self.file}: proxy"
        self.assertEqual(
            result,
            Result(
                (
                    change("proxy.relay", "auto", "copy", f"{place}.relay"),
                    change("proxy.timeout", 1.0, 2.0, f"{place}.timeout"),
                ),
                (change("proxy.listen", ("tcp:9000",), ("tcp:1",), f"{place}.listen"),),
            ),
        )
        config = self.part.applied[-1]
        # No part sees the new value of what only a restart changes.
        self.assertEqual((config.timeout, config.relay, config.listen), (2, "copy", ("tcp:9000",)))
        self.assertEqual(config.label("timeout"), f"{place}.timeout")
        self.assertEqual(config.label("listen"), "--listen")
        self.assertIs(self.settings.config, config)
        self.assertEqual(
            self.journal.lines(),
            [
                'SIGHUP: the settings are reloaded: proxy.relay from "auto" to "copy";'
                " proxy.timeout from 1.0 to 2.0",
                "SIGHUP: these settings change only when the daemon starts again:"
                ' proxy.listen from ["tcp:9000"] to ["tcp:1"]',
            ],
        )

    def test_options_and_variables_of_the_start_still_override_the_file(self) -> None:
        reloader = self.make(self.load({"timeout": "9"}))
        self.write("[proxy]\ntimeout = 2\ndrain = 4\nconnect-timeout = 6\n")
        result = self.reload(reloader)
        self.assertEqual([one.setting for one in result.changed], ["proxy.connect-timeout"])
        config = self.part.applied[-1]
        self.assertEqual((config.timeout, config.drain, config.connect_timeout), (9, 3, 6))

    def test_key_that_is_removed_has_its_default_again(self) -> None:
        reloader = self.make(self.load())
        self.write("# none\n")
        (changed,) = self.reload(reloader).changed
        self.assertEqual(changed, change("proxy.timeout", 1.0, 60.0, "default"))

    def test_long_values_are_cut_in_the_log(self) -> None:
        reloader = self.make(self.load())
        hosts = [f"h{number}.example" for number in range(10_000)]
        self.write(f"[proxy]\ntimeout = 1\nweb-hosts = {to_toml(hosts)}\n")
        (changed,) = self.reload(reloader).restart
        self.assertEqual(changed.new, tuple(hosts))
        self.assertLess(len(self.journal.lines()[-1]), 250)

    def test_restart_is_named_again_until_it_happens(self) -> None:
        reloader = self.make(self.load())
        self.write('[proxy]\ntimeout = 1\nlog = "x"\n')
        for _ in range(2):
            result = self.reload(reloader)
            self.assertEqual([one.setting for one in result.restart], ["proxy.log"])
            self.assertEqual(result.changed, ())
        self.write("[proxy]\ntimeout = 1\n")
        self.assertEqual(self.reload(reloader), Result())
        self.assertEqual(
            self.journal.lines()[-1], "SIGHUP: the settings are reloaded: no value has changed"
        )

    def test_error_in_the_file_changes_nothing(self) -> None:
        reloader = self.make(self.load())
        self.write("[proxy]\ntimeout = 0\ndrain = -1\nrelay = 'copy'\n")
        result = self.reload(reloader)
        messages = (
            f"{self.file}: proxy.drain -1: must be at least 0 seconds",
            f"{self.file}: proxy.timeout 0: must be at least 0.001 seconds",
        )
        self.assertEqual(result, Result(errors=messages))
        self.assertEqual(len(self.part.prepared), 1)
        self.assertEqual(self.settings.config.relay, "auto")
        self.assertEqual(
            self.journal.lines(),
            [f"SIGHUP: the settings are not reloaded, nothing has changed: {'; '.join(messages)}"],
        )

    def test_error_of_a_part_changes_nothing(self) -> None:
        other = RecordingPart()
        reloader = self.make(self.load(), self.part, other)
        other.error = SettingError("--token-file x: No such file or directory")
        self.write("[proxy]\ntimeout = 2\n")
        self.assertEqual(self.reload(reloader).errors, other.error.messages)
        self.assertEqual((len(self.part.applied), len(other.applied)), (1, 1))

    def test_file_that_is_gone_or_a_pipe(self) -> None:
        reloader = self.make(self.load())
        os.unlink(self.file)
        expected = (f"{self.file}: No such file or directory",)
        self.assertEqual(self.reload(reloader).errors, expected)
        os.mkfifo(self.file)
        expected = (f"{self.file}: cannot be read again: not a regular file",)
        self.assertEqual(self.reload(reloader).errors, expected)

    def test_empty_file_is_not_taken_for_one_without_settings(self) -> None:
        self.write("[proxy]\ntimeout = 2\n")
        reloader = self.make(self.load())
        self.write("")
        (error,) = self.reload(reloader).errors
        self.assertTrue(error.startswith(f"{self.file}: the file is empty"), error)
        self.assertEqual(self.settings.config.timeout, 2.0)
        self.write("# none\n")
        self.assertEqual(self.reload(reloader).errors, ())
        self.assertEqual(self.settings.config.timeout, 60.0)

    def test_file_is_found_from_another_working_directory(self) -> None:
        before = os.getcwd()
        self.addCleanup(os.chdir, before)
        self.file = os.path.relpath(self.file)
        reloader = self.make(self.load())
        self.write("[proxy]\ntimeout = 2\n")
        os.chdir("/")
        (changed,) = self.reload(reloader).changed
        self.assertEqual(changed.source, f"{self.file}: proxy.timeout")
        self.assertEqual(self.settings.config.directory, before)

    def test_dry_run_changes_and_logs_nothing(self) -> None:
        reloader = self.make(self.load())
        self.write('[proxy]\ntimeout = 2\nname = "x"\n')
        result = self.reload(reloader, dry_run=True)
        self.assertEqual([one.setting for one in result.changed], ["proxy.timeout"])
        self.assertEqual([one.setting for one in result.restart], ["proxy.name"])
        self.assertEqual((len(self.part.applied), self.journal.lines()), (1, []))
        self.assertEqual(self.settings.config.timeout, 1)
        self.write("[proxy]\ntimeout = 0\n")
        self.assertEqual(len(self.reload(reloader, dry_run=True).errors), 1)

    def test_value_that_a_program_has_changed_stays(self) -> None:
        config = dataclasses.replace(self.load(), upstream="tcp:h:1", journal="none")
        reloader = self.make(without_options(config))
        self.write("[proxy]\ntimeout = 2\nupstream = 'tcp:h:2'\n")
        result = self.reload(reloader)
        self.assertEqual([one.setting for one in result.changed], ["proxy.timeout"])
        self.assertEqual([one.endpoint for one in self.part.applied[-1].upstream], ["tcp:h:1"])
        self.assertEqual(result.restart, ())

    def test_config_that_was_not_loaded_stays(self) -> None:
        reloader = self.make(ProxyConfig(timeout=5))
        self.assertEqual(self.reload(reloader), Result())

    def test_tables_are_compared_and_reported_as_json_has_them(self) -> None:
        self.write("# none\n")
        config = VisitedConfig.load({}, {}, self.file)
        reloader = self.make(config)
        self.write("[[proxy.visits]]\naction = 'come'\n")
        (changed,) = self.reload(reloader).changed
        self.assertEqual(changed[:3], ("proxy.visits", [], [{"action": "come"}]))
        self.assertEqual(self.part.applied[-1].visits, (Visit("come"),))

    def test_unexpected_errors_are_logged_and_change_nothing(self) -> None:
        reloader = self.make(self.load())
        self.part.error = ZeroDivisionError()
        self.write("[proxy]\ntimeout = 2\n")
        self.assertEqual(self.reload(reloader).errors, (UNEXPECTED,))
        self.assertEqual(self.settings.config.timeout, 1)
        self.assertEqual(self.flush(ZeroDivisionError), 1)

    def test_effect_that_fails_does_not_prevent_others(self) -> None:
        other = RecordingPart()
        reloader = self.make(self.load(), self.part, other)
        self.part.fault = ZeroDivisionError()
        self.write("[proxy]\ntimeout = 2\n")
        self.assertEqual(self.reload(reloader).errors, ())
        self.assertEqual(other.applied[-1].timeout, 2)
        self.assertEqual(self.flush(ZeroDivisionError), 1)


class SeveralTests(ReloadCase):
    """Several daemons in one process, and several reloads at a time."""

    def test_both_daemons_or_none(self) -> None:
        server_part = RecordingPart()
        server = LiveSettings(FileServerConfig.load({}, {}, self.file), (server_part,))
        proxy = LiveSettings(self.load(), (self.part,))
        reloader = Reloader(self.clock, at_once, proxy, server)
        self.write("[proxy]\ntimeout = 2\n[fileserver]\ntimeout = 3\n")
        result = self.reload(reloader)
        settings = [one.setting for one in result.changed]
        self.assertEqual(settings, ["proxy.timeout", "fileserver.timeout"])
        self.write("colour = 1\n[proxy]\ntimeout = 4\n[fileserver]\ntimeout = 0\n")
        result = self.reload(reloader)
        # Both read the same file: its error is reported once.
        self.assertEqual(len(result.errors), 2)
        self.write("[proxy]\ntimeout = 4\n[fileserver]\ntimeout = 0\n")
        self.assertEqual(len(self.reload(reloader).errors), 1)
        self.assertEqual((self.part.applied[-1].timeout, server_part.applied[-1].timeout), (2, 3))

    def waiting(self) -> tuple[Reloader, list[Deferred[Any]], list[Callable[[], Any]]]:
        """Return a reloader whose threads wait, with what they return and are to call."""
        threads: list[Deferred[Any]] = []
        functions: list[Callable[[], Any]] = []

        def in_thread(function: Callable[[], Any]) -> Deferred[Any]:
            functions.append(function)
            threads.append(Deferred())
            return threads[-1]

        settings = LiveSettings(self.load(), (self.part,))
        return Reloader(self.clock, in_thread, settings), threads, functions

    def test_reloads_happen_one_after_the_other(self) -> None:
        reloader, threads, functions = self.waiting()
        first, second = reloader.reload("a"), reloader.reload("b")
        self.assertEqual(len(threads), 1)
        self.write("[proxy]\ntimeout = 2\n")
        threads[0].callback(functions[0]())
        self.assertEqual(len(self.successResultOf(first).changed), 1)
        self.assertNoResult(second)
        threads[1].callback(functions[1]())
        self.assertEqual(self.successResultOf(second), Result())

    def test_number_that_waits_is_limited(self) -> None:
        reloader, _threads, _ = self.waiting()
        for _ in range(WAITING + 1):
            self.assertNoResult(reloader.reload("SIGHUP"))
        (error,) = self.successResultOf(reloader.reload("SIGHUP")).errors
        self.assertIn("too many reloads", error)

    def test_file_system_that_hangs(self) -> None:
        reloader, threads, _ = self.waiting()
        threads_before = len(threads)
        result = reloader.reload("SIGHUP")
        self.clock.advance(TIMEOUT)
        (error,) = self.successResultOf(result).errors
        self.assertEqual(error, "the files of the settings were not read within 30 s")
        self.assertEqual(threads_before + 1, len(threads))
        self.assertEqual(len(self.part.applied), 1)
