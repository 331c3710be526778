"""A daemon as several processes: a master without traffic, and workers that share its sockets.

`master` is the service that takes the place of the daemon's in the process that was started.
`daemon` decides whether there is one. `pool` holds the workers of one `generation`: it starts them,
replaces those that end or hang, and passes sockets between them. `member` is one of them, and
`state` has its states. `reload` replaces all of them, and `handover` the program of the master if
its `code` has changed. `listening` opens the listening sockets, and `sockets` adopts inherited
ones; `record` is what a worker is started with, `channel` the messages of both sides, `process` the
child process, and `logs` the log that all have in common. `worker` is the program of a worker,
`membership` its side of the channel, and `share` its part of the daemon.
"""
