"""What a worker is started with, and its settings, written and read again."""

from __future__ import annotations

import os
import socket

from twisted.trial.unittest import SynchronousTestCase

from natproxy.access import ScopeLimits
from natproxy.access.rules import AccessRule
from natproxy.daemon.config import DaemonConfig
from natproxy.daemon.fileserver_config import FileServerConfig
from natproxy.daemon.limits import LimitSettings
from natproxy.daemon.proxy_config import ProxyConfig
from natproxy.daemon.workers.record import (
    LogRecord,
    WorkerRecord,
    config_members,
    config_of,
    read_record,
    write_record,
)
from natproxy.daemon.workers.sockets import InheritedEndpoint
from natproxy.settings import SettingError

CONFIGS: tuple[DaemonConfig, ...] = (
    ProxyConfig(),
    FileServerConfig(),
    ProxyConfig.load(
        {"listen": ["tcp:1", "unix:a b"], "workers": "auto", "journal-keep": "3d"},
        {"NATPROXY_PROXY_MAX_CLIENTS": "7", "NATPROXY_PROXY_AUTH_PLAIN": "yes"},
    ),
    ProxyConfig(
        rules=(AccessRule(False, ("10.0.0.0/8",)),),
        limits=LimitSettings(total=ScopeLimits(commands=4, commands_per_second=0.5)),
        trusted_proxies=("unix",),
        journal_max_size=3 << 30,
    ),
    FileServerConfig(hide=("*.key", "/private"), files="a directory", max_clients_per_host=3),
)


class ConfigTests(SynchronousTestCase):
    def test_it_is_the_same_afterwards(self) -> None:
        for config in CONFIGS:
            again = config_of(config_members(config))
            self.assertEqual(again, config)
            self.assertEqual(again.sources, config.sources)
            self.assertEqual(again.directory, config.directory)

    def test_it_is_never_loaded_again(self) -> None:
        again = config_of(config_members(CONFIGS[2]))
        self.assertIs(again.load_again(), again)

    def test_setting_of_another_version_is_left_out(self) -> None:
        members = config_members(ProxyConfig(timeout=7.0))
        members["values"]["colour"] = "blue"
        self.assertEqual(config_of(members), ProxyConfig(timeout=7.0))

    def test_missing_setting_has_its_default(self) -> None:
        members = config_members(ProxyConfig(timeout=7.0))
        del members["values"]["timeout"]
        self.assertEqual(config_of(members), ProxyConfig())

    def test_wrong_value(self) -> None:
        members = config_members(ProxyConfig())
        members["values"]["timeout"] = -1
        self.assertRaises(SettingError, config_of, members)


class RecordTests(SynchronousTestCase):
    def test_it_is_the_same_afterwards(self) -> None:
        for config in CONFIGS:
            record = WorkerRecord(
                "proxy",
                1,
                4,
                2,
                "0123456789abcdef",
                config,
                (
                    InheritedEndpoint("haproxy:tcp:1", socket.AF_INET, (5, 6, 7, 8)),
                    InheritedEndpoint("unix:a b", socket.AF_UNIX, (9,)),
                ),
                4,
                LogRecord(False, True, False, "twistd writes the log"),
                "twisted.internet.epollreactor",
                {"files-a": "drain", "10.0.0.1:9001": "maintenance"},
            )
            descriptor = write_record(record)
            self.assertEqual(read_record(descriptor), record)
            self.assertRaises(OSError, os.fstat, descriptor)
            self.assertEqual(record.descriptors(), [4, 5, 6, 7, 8, 9])

    def test_descriptor_of_a_worker(self) -> None:
        own = InheritedEndpoint("tcp:1", socket.AF_INET, (5, 6))
        shared = InheritedEndpoint("unix:a", socket.AF_UNIX, (7,))
        self.assertEqual([one.descriptor(1) for one in (own, shared)], [6, 7])
        self.assertEqual([one.shared for one in (own, shared)], [False, True])
