"""A storage that serves a local directory.

A name from a client is resolved below the served directory or not at all, and the kernel
decides which; path strings are never compared.
"""
