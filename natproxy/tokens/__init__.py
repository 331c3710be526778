"""The tokens that daemons accept, and the file that has their digests. Twisted is not needed."""
