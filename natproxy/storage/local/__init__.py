"""The storage that serves a local directory."""
