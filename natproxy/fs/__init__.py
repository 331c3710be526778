"""An fsspec file system: pandas, pyarrow, dask and others read ``natproxy://HOST:PORT/PATH``.

fsspec finds it by its entry point; nothing else here imports it. It stands on the blocking
client. A path is literal: ``%41`` is not ``A``. It is UTF-8 whatever the locale is, and a byte
that is not UTF-8 is a lone surrogate (``surrogateescape``).

A file is held to the etag that it has when it is opened: one that changes meanwhile raises
`FileChanged`, and its bytes are never mixed with others. Listings are not kept: each
question is the server's to answer.

Failures are `OSError`, with the `natproxy.client.ClientError` as their cause:
`FileNotFoundError`, `FileChanged`, `ConnectionError` for a server that can't be reached,
and others by their errno. Lost connections are made anew, and what was asked is asked again.
"""

from fsspec import register_implementation

from natproxy.fs.errors import FileChanged
from natproxy.fs.reading import NatproxyFile
from natproxy.fs.system import NatproxyFileSystem

# universal_pathlib looks for the class in fsspec's registry, and not at the entry points.
register_implementation("natproxy", NatproxyFileSystem, clobber=True)

__all__ = ["FileChanged", "NatproxyFile", "NatproxyFileSystem"]
