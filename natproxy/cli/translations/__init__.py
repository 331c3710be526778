"""Translations on the command line: where they are read, and how they are shown to people."""
