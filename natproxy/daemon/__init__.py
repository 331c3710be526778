"""Two daemons as twistd services: options, listening sockets, logs, signals."""
