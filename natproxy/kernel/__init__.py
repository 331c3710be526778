"""Thin wrappers of interfaces of the operating system that several packages use.

``openat2(2)``, the table of mounts, and TCP keepalive. Nothing here imports another package of
natproxy, or Twisted.
"""
