"""Reports about the settings of the daemons."""

from __future__ import annotations

import os

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from natproxy.daemon.config_report import check_config, show_config
from natproxy.daemon.fileserver_config import FileServerConfig
from natproxy.daemon.proxy_config import ProxyConfig
from natproxy.toml import read_toml


class ReportCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.environment: dict[str, str] = {}
        self.file: str | None = None

    def write(self, text: str) -> str:
        self.file = self.mktemp()
        with open(self.file, "w") as file:
            file.write(text)
        return self.file


class ShowTests(ReportCase):
    def shown(self, daemon: str) -> str:
        return show_config(daemon, self.environment, self.file)

    def test_every_setting_has_its_value_and_source(self) -> None:
        path = self.write("[fileserver]\ndrain = 5\n[proxy]\ndrain = 6\n")
        self.environment["NATPROXY_FILESERVER_TIMEOUT"] = "7"
        lines = [" ".join(line.split()) for line in self.shown("fileserver").splitlines()]
        self.assertEqual(
            lines,
            [
                "[fileserver]",
                "# access-log # not set",
                "auth-plain = false # default",
                "body-timeout = 0.0 # default",
                "# cache # not set: none",
                'cache-size = "10G" # default',
                "# control # not set: in the usual place",
                f"drain = 5.0 # {path}: fileserver.drain",
                'etag = "file" # default',
                "# files # not set: ./files",
                "first-command-timeout = 30.0 # default",
                "hide = [] # default",
                "limits = {} # default",
                "line-timeout = 30.0 # default",
                'listen = ["tcp:9001:interface=127.0.0.1"] # default',
                "# log # not set",
                "log-keep = 9 # default",
                'log-level = "info" # default',
                "log-size = 10 # default",
                "# max-clients # not set: 10000",
                "max-clients-per-host = 0 # default",
                "max-delay = 5.0 # default",
                "min-rate = 0 # default",
                "# name # not set: after its kind and port",
                'relay = "auto" # default',
                "reload-drain = 0.0 # default",
                "rules = [] # default",
                'rules-default = "allow" # default',
                "# s3-endpoint # not set: of the environment, or AWS",
                "timeout = 7.0 # environment NATPROXY_FILESERVER_TIMEOUT",
                "# tokens # not set",
                "trusted-proxies = [] # default",
                "web = [] # default",
                "web-hosts = [] # default",
                "workers = 1 # default",
            ],
        )

    def test_source_is_a_comment_of_one_line(self) -> None:
        self.file = self.mktemp() + "\ntimeout = 9"
        with open(self.file, "w") as file:
            file.write("[proxy]\ntimeout = 3\n")
        self.file = self.write(self.shown("proxy"))
        self.assertEqual(ProxyConfig.load({}, {}, self.file).timeout, 3.0)

    def test_output_is_a_file_with_the_same_settings(self) -> None:
        self.environment["NATPROXY_FILESERVER_FILES"] = 'a "quoted" \\ directory\x7f'
        path = self.write(self.shown("fileserver"))
        before = FileServerConfig.load(environment=self.environment)
        self.assertEqual(FileServerConfig.load(environment={}, file=path), before)
        self.assertEqual(set(read_toml(path)), {"fileserver"})


class CheckTests(ReportCase):
    def errors(self, daemon: str) -> list[str]:
        return check_config(MemoryReactorClock(), daemon, self.environment, self.file)

    def test_log_that_cannot_be_opened(self) -> None:
        directory = self.mktemp()
        os.mkdir(directory)
        for log, reason in (
            (directory, "Is a directory"),
            (os.path.join(directory, "missing", "log"), "No such file or directory"),
        ):
            for key in ("log", "access-log"):
                path = self.write(f"[proxy]\n{key} = '{log}'\n")
                found = check_config(MemoryReactorClock(), "proxy", {}, path)
                self.assertEqual(found, [f"{path}: proxy.{key} {log}: {reason}"])
        for log in ("-", "log", os.path.join(directory, "log")):
            path = self.write(f"[proxy]\nlog = '{log}'\n")
            self.assertEqual(check_config(MemoryReactorClock(), "proxy", {}, path), [])
        self.assertEqual(os.listdir(directory), [])

    def test_one_file_for_both_logs(self) -> None:
        path = self.write("[proxy]\nlog = 'a.log'\naccess-log = './a.log'\n")
        (error,) = check_config(MemoryReactorClock(), "proxy", {}, path)
        self.assertEqual(
            error,
            f"{path}: proxy.access-log ./a.log: is the file of the log ({path}: proxy.log) as well",
        )

    def test_defaults_are_right_and_nothing_is_created(self) -> None:
        before = sorted(os.listdir())
        self.assertEqual((self.errors("proxy"), self.errors("fileserver")), ([], []))
        self.assertEqual(sorted(os.listdir()), before)

    def test_every_wrong_value_has_a_line(self) -> None:
        path = self.write("[proxy]\ndrain = -1\ntimeout = false\ncolour = 1\n")
        self.environment["NATPROXY_PROXY_RELAY"] = "fast"
        errors = self.errors("proxy")
        self.assertEqual(len(errors), 4)
        self.assertIn("$NATPROXY_PROXY_RELAY fast: must be one of auto, copy, splice", errors)
        for key in ("drain", "timeout", "colour"):
            self.assertTrue(any(line.startswith(f"{path}: proxy.{key}") for line in errors))

    def test_every_wrong_endpoint_has_a_line(self) -> None:
        path = self.write(
            '[proxy]\nlisten = ["9000", "tcp:9000", "bogus:1", "systemd:domain=INET:name=x"]\n'
            'upstream = "9001"\n'
        )
        self.assertEqual(
            self.errors("proxy"),
            [
                f"{path}: proxy.listen 9000: not an endpoint; write tcp:9000",
                f"{path}: proxy.listen bogus:1:"
                " malformed endpoint (Unknown endpoint type: 'bogus')",
                f"{path}: proxy.upstream 9001: not an endpoint; write tcp:127.0.0.1:9001",
            ],
        )

    def test_directory_that_is_named_must_exist(self) -> None:
        path = self.write('[fileserver]\nfiles = "missing"\n')
        (error,) = self.errors("fileserver")
        self.assertTrue(error.startswith(f"{path}: fileserver.files missing: no such directory"))
