"""System interfaces that several packages use: ``openat2``, mounts, TCP keepalive."""
