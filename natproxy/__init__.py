"""natproxy: a NAPT device for commands, in front of a file server.

The rooms, from the ground up, and what each is for:

- ``wire``: the protocol's grammar; ``nat``: the translation table;
  ``storage``: the served directory. They know no reactor and open no socket.
- ``relay``: bytes in motion between transports, or from a file to a transport.
- ``deadlines``: one timer for many connections; ``connecting``: upstream connections;
  ``threads``: work off the reactor's thread; ``digests``: SHA-256, computed there.
- ``admission``: how many clients there may be; ``descriptors``: how many can be served;
  ``proxyheader``, ``listening``: the PROXY header, listening sockets; ``logfile``: the log.
- ``commands``: a connection that takes commands one at a time, in order;
  on it stand the protocols ``fileserver`` and ``proxy``.
- ``service``, ``tap``, ``up``: what an operator starts.
- ``client``: asking a server and fetching from it, blocking or with Deferreds. It stands
  on ``wire`` and ``beneath``, and its ``deferred`` on Twisted as well.
- ``cli``: what people type; ``fs``: what fsspec reads through. They stand on ``client``.

Imports run downward, or sideways to ``wire``; never up.
"""

__version__ = "0.1.0"
