"""The proxy: a NAPT device for commands."""
