"""A daemon as several processes: a master without traffic, and workers that share its sockets.

`master` is the service that takes the place of the daemon's in the process that was started.
`pool` holds the workers of one generation: it starts them, replaces those that end or hang, and
passes sockets between them. `state` has the states of a worker. `sockets` opens the listening
sockets and adopts inherited ones; `record` is what a worker is started with, `channel` the messages
of both sides, `process` the child process, and `logs` the log that all have in common. `worker` is
the program of a worker.
"""
