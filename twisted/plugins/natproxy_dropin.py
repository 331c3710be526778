"""What ``twistd`` finds: two service makers. Importing this imports no reactor."""

from twisted.application.service import ServiceMaker

fileserver = ServiceMaker(
    "natproxy file server",
    "natproxy.daemon.fileserver",
    "Serve the files of a directory, or the objects of a bucket.",
    "fileserver",
)

natproxy = ServiceMaker(
    "natproxy",
    "natproxy.daemon.proxy",
    "Proxy commands to a file server, with one upstream connection for each.",
    "natproxy",
)
