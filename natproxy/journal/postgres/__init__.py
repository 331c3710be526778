"""The journal of a fleet in PostgreSQL: shipped from segments, and searched.

It needs the extra ``postgres``. Nothing here uses Twisted.
"""
