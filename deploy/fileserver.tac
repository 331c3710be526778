"""The file server as an application file: ``twistd -ny deploy/fileserver.tac``.

Its settings come from environment variables (``NATPROXY_FILESERVER_FILES``, …), from the TOML
file that ``NATPROXY_FILESERVER_CONFIG`` names, and from the first argument of ``load`` below,
which overrides both: ``FileServerConfig.load({"files": "/srv/natproxy"})``. All settings are
listed in docs/operations.md, "Configuration"; an example of a file is deploy/natproxy.toml.

Without the setting ``log``, twistd writes its own log, which has whole seconds.
"""

from twisted.internet import reactor

from natproxy.daemon.application import exit_on_error, make_application
from natproxy.daemon.config import without_options
from natproxy.daemon.fileserver_config import FileServerConfig
from natproxy.daemon.fileserver import make_file_server
from natproxy.daemon.log_options import open_log

with exit_on_error("fileserver.tac"):
    config = without_options(FileServerConfig.load())
    log = open_log(config)
    server = make_file_server(reactor, config)

application = make_application("fileserver", server, reactor, log)
