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
    "Stand in front of a file server, with one upstream port for each command.",
    "natproxy",
)
