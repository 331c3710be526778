"""natproxy: a NAPT device for commands, in front of a file server.

The packages from the ground up, and what each holds. Imports run down this list only:

- ``kernel``, ``address``, ``metadata``, ``settings``, ``toml``, ``toml_values``: what several
  packages use.
- ``protocol``: the grammar of commands and replies, without I/O.
- ``nat``: the translation table and its events.
- ``relay``: how the bytes of a body are moved.
- ``storage``: what a storage is; the local directory.
- ``server``: the connections of clients, for both daemons.
- ``proxy``, ``fileserver``: the two daemons' protocols.
- ``daemon``: configuration, listening sockets, services, signals; what ``twistd`` starts.
- ``client``: requests; the blocking and the Deferred API; downloads and mirrors.
- ``cli``: the command line. ``fs``: the fsspec file system.
- ``testing``: test doubles for programs that use natproxy.
"""

__version__ = "0.1.0"
