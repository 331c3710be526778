"""The journal: every translation in SQLite files, called segments, and the search in them.

`natproxy.journal.schema` describes the files. What searches needs neither a daemon nor Twisted.
"""
