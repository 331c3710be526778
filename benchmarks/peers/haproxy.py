"""HAProxy, as a TCP proxy."""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers.base import Peer, Setting, executable, output, version_in

_CONFIGURATION = """\
global
    maxconn {clients}
    maxpipes {pipes}
    nbthread {threads}
    {log}
defaults
    mode tcp
    {option_log}
    timeout connect 5s
    timeout client 600s
    timeout server 600s
    {option}
listen proxy
    bind 127.0.0.1:{port}
    server origin 127.0.0.1:{origin_port}
"""


class HAProxy(Peer):
    """HAProxy, splicing or not.

    With ``splice-auto`` it splices when it takes a connection for a fast stream, and seems to
    think so only now and then when the peers are as fast as loopback is; what it can do is
    seen with ``splice-response``, which leaves it no choice.

    :param splicing: the option that lets it splice; it is told not to if there is none.
    :param logging: whether it logs each connection, to a syslog daemon of the benchmark.
    """

    def __init__(self, name: str, title: str, splicing: str | None, logging: bool = False) -> None:
        super().__init__(name, title)
        self._splicing = splicing
        self._logging = logging

    def missing(self) -> str | None:
        """See whether it is installed, with splicing built in."""
        path = executable("haproxy")
        if path is None:
            return "haproxy is not installed (Debian: haproxy)"
        if self._splicing and "+LINUX_SPLICE" not in output(path, "-vv"):
            return "this haproxy was built without splice"
        return None

    def version(self) -> str:
        """Ask it."""
        return version_in(output(executable("haproxy") or "", "-v"))

    def syslog(self, setting: Setting) -> Path | None:
        """Return the socket that it logs to."""
        return setting.directory / "log.sock" if self._logging else None

    def command(self, setting: Setting) -> list[str]:
        """Write ``haproxy.cfg``."""
        path = setting.directory / "haproxy.cfg"
        text = _CONFIGURATION.format(
            clients=setting.clients,
            # Two descriptors each. Its own choice is a quarter of its connections, which
            # would not leave enough descriptors for 10,000 idle clients.
            pipes=max(10, min(1100, setting.clients, (20_000 - 2 * setting.clients) // 8)),
            threads=setting.threads,
            log=f"log {self.syslog(setting)} local0" if self._logging else "",
            option_log="log global\n    option tcplog" if self._logging else "",
            option=f"option {self._splicing}" if self._splicing else "",
            port=setting.port,
            origin_port=setting.origin_port,
        )
        if not self._splicing:
            text = text.replace("global\n", "global\n    nosplice\n")
        path.write_text(text)
        return [executable("haproxy") or "haproxy", "-db", "-f", str(path)]
