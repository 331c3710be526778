"""nginx, as a TCP proxy and as a file server over HTTP."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.peers.base import Peer, Setting, executable, output, version_in

_MODULES = (
    "/usr/lib/nginx/modules",
    "/usr/lib64/nginx/modules",
    "/usr/share/nginx/modules",
    "/usr/local/lib/nginx/modules",
    "/etc/nginx/modules",
)
_COMMON = """\
{user}
daemon off;
worker_processes {threads};
pid {directory}/nginx.pid;
error_log stderr crit;
events {{ worker_connections {connections}; }}
"""
_STREAM = """\
stream {{
    access_log off;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        proxy_pass 127.0.0.1:{origin_port};
        proxy_timeout 600s;
    }}
}}
"""
_HTTP = """\
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    default_type application/octet-stream;
    keepalive_requests 1000000;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        root {files};
        autoindex on;
    }}
}}
"""


class _Nginx(Peer):
    def missing(self) -> str | None:
        """See whether it is installed."""
        return None if executable("nginx") else "nginx is not installed (Debian: nginx)"

    def version(self) -> str:
        """Ask it."""
        return version_in(output(executable("nginx") or "", "-v"))

    def _run(self, setting: Setting, text: str) -> list[str]:
        path = setting.directory / "nginx.conf"
        values = {
            # Its workers give up root's rights, and could then not read the files.
            "user": "user root;" if os.geteuid() == 0 else "",
            "threads": setting.threads,
            "connections": 2 * setting.clients + 64,
            "directory": setting.directory,
            "files": setting.files,
            "port": setting.port,
            "origin_port": setting.origin_port,
        }
        path.write_text(text.format(**values))
        prefix = str(setting.directory)
        return [executable("nginx") or "nginx", "-e", "stderr", "-p", prefix, "-c", str(path)]


class NginxStream(_Nginx):
    """nginx with its stream module."""

    def missing(self) -> str | None:
        """See whether the module is there, built in or not."""
        return super().missing() or (
            None
            if self._load() is not None
            else "nginx has no stream module (Debian: libnginx-mod-stream)"
        )

    def command(self, setting: Setting) -> list[str]:
        """Relay to the origin."""
        return self._run(setting, (self._load() or "") + _COMMON + _STREAM)

    @staticmethod
    def _load() -> str | None:
        words = output(executable("nginx") or "", "-V").split()
        if "--with-stream" in words:
            return ""
        for directory in _MODULES:
            path = Path(directory, "ngx_stream_module.so")
            if path.exists():
                return f"load_module {path};\n"
        return None


class NginxHTTP(_Nginx):
    """nginx with ``sendfile on``."""

    dialect = "http"
    keeps = True
    serves = True

    def command(self, setting: Setting) -> list[str]:
        """Serve the files."""
        return self._run(setting, _COMMON + _HTTP)
