"""natproxy: a NAPT device for commands, in front of a file server.

The rooms, from the ground up, and what each is for:

- ``wire``: the protocol's grammar; ``nat``: the translation table;
  ``storage``: the served directory. They know no reactor and open no socket.
- ``relay``: bytes in motion between transports, or from a file to a transport.
- ``deadlines``: one timer for many connections; ``connecting``: upstream connections.
- ``commands``: a connection that takes commands one at a time, in order;
  on it stand the protocols ``fileserver`` and ``proxy``.
- ``service``, ``tap``, ``up``: what an operator starts.
- ``client``, ``cli``: what people type. They stand on ``wire`` alone.

Imports run downward, or sideways to ``wire``; never up.
"""

__version__ = "0.1.0"
