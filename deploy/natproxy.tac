"""The proxy as an application file: ``twistd -ny deploy/natproxy.tac``.

Its settings come from environment variables (``NATPROXY_PROXY_LISTEN``, …), from the TOML file
that ``NATPROXY_PROXY_CONFIG`` names, and from the first argument of ``load`` below, which
overrides both: ``ProxyConfig.load({"listen": "tcp:9100", "drain": 10})``. All settings are
listed in docs/operations.md, "Configuration"; an example of a file is deploy/natproxy.toml.

Without the setting ``log``, twistd writes its own log, which has whole seconds.
"""

from twisted.internet import reactor

from natproxy.daemon.application import exit_on_error, make_application
from natproxy.daemon.config import without_options
from natproxy.daemon.proxy_config import ProxyConfig
from natproxy.daemon.log_options import open_log
from natproxy.daemon.proxy import make_proxy

with exit_on_error("natproxy.tac"):
    config = without_options(ProxyConfig.load())
    log = open_log(config)
    proxy = make_proxy(reactor, config)

application = make_application("natproxy", proxy, reactor, log)
