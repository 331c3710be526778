"""The two daemons as services of ``twistd``, and ``natproxy up``.

`config` has their settings, `options` the command line made of them, and `config_report` what
``natproxy config`` prints. `proxy` and `fileserver` make the daemons of configs; `up` runs both.
`endpoints` and `listening` parse endpoints, open sockets and wrap them; `service` starts, drains
and stops the daemons and handles signals. `log_options` and `logfile` are the log. `descriptors`
limits the clients by the descriptors of the process, and `clock` makes time-outs independent of
the wall clock.
"""
