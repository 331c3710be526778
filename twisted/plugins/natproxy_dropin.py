"""What ``twistd`` finds: two service makers. Importing this imports no reactor."""

from twisted.application.service import ServiceMaker

fileserver = ServiceMaker(
    "natproxy file server",
    "natproxy.tap.fileserver",
    "Serve the files of a directory.",
    "fileserver",
)

natproxy = ServiceMaker(
    "natproxy",
    "natproxy.tap.natproxy",
    "Proxy commands to a file server, with one upstream connection for each.",
    "natproxy",
)
