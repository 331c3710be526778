"""Reactors in memory and command lines for tests of the daemons."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from natproxy.daemon import fileserver
from natproxy.daemon import proxy as proxy_plugin
from natproxy.daemon.fileserver_config import FileServerConfig
from natproxy.daemon.options import DaemonOptions
from natproxy.daemon.proxy_config import ProxyConfig
from natproxy.daemon.service import DrainingService, StartupError


class DaemonReactor(MemoryReactorClock):
    """A reactor in memory that signal handlers can call, with a name for its thread pool."""

    def __init__(self) -> None:
        super().__init__()
        # Twisted 24.7 considers it stopped before it has run.
        self.hasStopped = False

    def callFromThread(self, function: object, *args: object) -> None:
        self.callLater(0, function, *args)

    def getThreadPool(self) -> object:
        return self

    def started(self) -> None:
        """Run the triggers that follow the start."""
        for function, args, kwargs in self.triggers["after"]["startup"]:
            function(*args, **kwargs)


def at_once(function: Callable[[], Any]) -> Deferred[Any]:
    """Call a function in the place of a thread."""
    return maybeDeferred(function)


class OptionsCase(SynchronousTestCase):
    """Has a reactor and an empty directory, and parses command lines of the daemons."""

    def setUp(self) -> None:
        self.reactor = DaemonReactor()
        self.directory = os.path.abspath(self.mktemp())
        os.mkdir(self.directory)
        for name in list(os.environ):
            if name.startswith("NATPROXY_"):
                self.addCleanup(os.environ.__setitem__, name, os.environ.pop(name))

    def options(self, kind: type[DaemonOptions], *arguments: str) -> DaemonOptions:
        options = kind(self.reactor)
        options.parseOptions(arguments)
        return options

    def server_config(self, *arguments: str) -> FileServerConfig:
        config = self.options(fileserver.Options, f"--files={self.directory}", *arguments).config
        assert isinstance(config, FileServerConfig)
        return config

    def proxy_config(self, *arguments: str) -> ProxyConfig:
        config = self.options(proxy_plugin.Options, *arguments).config
        assert isinstance(config, ProxyConfig)
        return config

    def server(self, *arguments: str, descriptors: int | None = None) -> DrainingService:
        config = self.server_config(*arguments)
        return fileserver.make_file_server(self.reactor, config, descriptors)

    def proxy(self, *arguments: str, descriptors: int | None = None) -> DrainingService:
        return proxy_plugin.make_proxy(self.reactor, self.proxy_config(*arguments), descriptors)

    def start(self, kind: type[DaemonOptions], *arguments: str) -> None:
        """Parse a command line, and make what ``twistd`` runs."""
        options = kind(self.reactor)
        options.parseOptions(arguments)
        if isinstance(options, proxy_plugin.Options):
            proxy_plugin.makeService(options)
        else:
            assert isinstance(options, fileserver.Options)
            fileserver.makeService(options)

    def assert_refused(self, kind: type[DaemonOptions], option: str, value: str) -> str:
        """Assert that a value gets one line, which names the daemon, the option and the value."""
        wrong = self.assertRaises(StartupError, self.start, kind, f"{option}={value}")
        message = str(wrong)
        self.assertEqual(message.splitlines(), [message])
        start = f"{kind.config_class.program()}: {option} {value}: "
        self.assertTrue(message.startswith(start), message)
        self.assertTrue(message.removeprefix(start).strip(), message)
        return message

    def assert_all_refused(
        self, kind: type[DaemonOptions], option: str, values: Sequence[str]
    ) -> None:
        for value in values:
            self.assert_refused(kind, option, value)
