"""The file server as an application file: ``twistd -ny deploy/fileserver.tac``.

Every setting below can be changed here, or by the environment variable beside it.
"""

import os

from twisted.application.service import Application
from twisted.logger import ILogObserver

from natproxy.daemon.service import StartupError
from natproxy.daemon.fileserver import Options, makeService

# Endpoints to listen on, one or more, separated by white space. A UNIX socket for its
# user and group: "unix:/run/fileserver/socket:mode=660".
LISTEN = os.environ.get("FILESERVER_LISTEN", "tcp:9001:interface=127.0.0.1")
# The directory to serve. It must exist. Without it, ./files is served, and created if missing.
FILES = os.environ.get("FILESERVER_FILES")
# Seconds until an idle or stalled client is cut off.
TIMEOUT = os.environ.get("FILESERVER_TIMEOUT", "600")
# Seconds that commands in flight may take when the daemon stops.
DRAIN = os.environ.get("FILESERVER_DRAIN", "30")
# Clients at once; more are turned away. Without it, 10000, or as many as there are
# descriptors for.
MAX_CLIENTS = os.environ.get("FILESERVER_MAX_CLIENTS")
# Connections of one host at once; 0: no limit.
MAX_CLIENTS_PER_HOST = os.environ.get("FILESERVER_MAX_CLIENTS_PER_HOST", "0")
# Seconds until a connection that has sent no complete command is closed; 0: no limit.
FIRST_COMMAND_TIMEOUT = os.environ.get("FILESERVER_FIRST_COMMAND_TIMEOUT", "30")
# File to log to; "-" is standard output. Without it, twistd writes its own log, which
# has whole seconds (see The log in docs/operations.md).
LOG = os.environ.get("FILESERVER_LOG")

arguments = [f"--listen={endpoint}" for endpoint in LISTEN.split()]
arguments += [f"--timeout={TIMEOUT}", f"--drain={DRAIN}"]
arguments += [f"--first-command-timeout={FIRST_COMMAND_TIMEOUT}"]
arguments += [f"--max-clients-per-host={MAX_CLIENTS_PER_HOST}"]
if FILES is not None:
    arguments += [f"--files={FILES}"]
if MAX_CLIENTS is not None:
    arguments += [f"--max-clients={MAX_CLIENTS}"]
if LOG is not None:
    arguments += [f"--log={LOG}"]

options = Options()
options.listen_option = "FILESERVER_LISTEN"
try:
    options.parseOptions(arguments)
except StartupError as wrong:
    # An Exception in a .tac file gets a traceback from twistd; SystemExit ends it in one line.
    raise SystemExit(str(wrong)) from None

application = Application("fileserver")
if options.log.writer is not None:
    application.setComponent(ILogObserver, options.log.writer)
makeService(options).setServiceParent(application)
