"""The proxy as an application file: ``twistd -ny deploy/natproxy.tac``.

Every setting below can be changed here, or by the environment variable beside it.
"""

import os

from twisted.application.service import Application
from twisted.logger import ILogObserver

from natproxy.daemon.service import StartupError
from natproxy.daemon.proxy import Options, makeService

# Endpoints to listen on, one or more, separated by white space. A UNIX socket for its
# user and group: "unix:/run/natproxy/socket:mode=660".
LISTEN = os.environ.get("NATPROXY_LISTEN", "tcp:9000")
# Endpoint of the file server.
UPSTREAM = os.environ.get("NATPROXY_UPSTREAM", "tcp:127.0.0.1:9001")
# Seconds that the file server may take for a reply's header, and be silent inside a body.
TIMEOUT = os.environ.get("NATPROXY_TIMEOUT", "60")
# Seconds until an idle or stalled client is cut off.
IDLE_TIMEOUT = os.environ.get("NATPROXY_IDLE_TIMEOUT", "600")
# Seconds that commands in flight may take when the daemon stops.
DRAIN = os.environ.get("NATPROXY_DRAIN", "30")
# Clients at once; more are turned away. Without it, 10000, or as many as there are
# descriptors for.
MAX_CLIENTS = os.environ.get("NATPROXY_MAX_CLIENTS")
# Connections of one host at once; 0: no limit. Without it, a tenth of all, at least 16.
MAX_CLIENTS_PER_HOST = os.environ.get("NATPROXY_MAX_CLIENTS_PER_HOST")
# Seconds until a connection that has sent no complete command is closed; 0: no limit.
FIRST_COMMAND_TIMEOUT = os.environ.get("NATPROXY_FIRST_COMMAND_TIMEOUT", "30")
# File to log to; "-" is standard output. Without it, twistd writes its own log, which
# has whole seconds (see The log in docs/operations.md).
LOG = os.environ.get("NATPROXY_LOG")

arguments = [f"--listen={endpoint}" for endpoint in LISTEN.split()]
arguments += [f"--upstream={UPSTREAM}", f"--timeout={TIMEOUT}", f"--drain={DRAIN}"]
arguments += [f"--idle-timeout={IDLE_TIMEOUT}"]
arguments += [f"--first-command-timeout={FIRST_COMMAND_TIMEOUT}"]
if MAX_CLIENTS_PER_HOST is not None:
    arguments += [f"--max-clients-per-host={MAX_CLIENTS_PER_HOST}"]
if MAX_CLIENTS is not None:
    arguments += [f"--max-clients={MAX_CLIENTS}"]
if LOG is not None:
    arguments += [f"--log={LOG}"]

options = Options()
options.listen_option = "NATPROXY_LISTEN"
try:
    options.parseOptions(arguments)
except StartupError as wrong:
    # An Exception in a .tac file gets a traceback from twistd; SystemExit ends it in one line.
    raise SystemExit(str(wrong)) from None

application = Application("natproxy")
if options.log.writer is not None:
    application.setComponent(ILogObserver, options.log.writer)
makeService(options).setServiceParent(application)
