"""An fsspec file system: pandas, pyarrow, dask and others read ``natproxy://HOST:PORT/PATH``.

fsspec imports it by its entry point; no other package of natproxy does. It uses the blocking
client. A path is literal: ``%41`` is not ``A``. It is UTF-8 in every locale, and a byte that is
not UTF-8 is a lone surrogate (``surrogateescape``).

An open file is one version of the file, the one whose etag it had when it was opened. If the file
changes, reading raises `FileChanged`; bytes of two versions are never mixed. Listings are not
cached: each call sends its command to the server.

Failures are ``OSError``, with the `natproxy.client.ClientError` as their cause:
``FileNotFoundError``, `FileChanged`, ``ConnectionError`` for a server that cannot be reached, and
others by their errno. Lost connections are opened again, and their commands are retried.
"""

from natproxy.extras import missing

try:
    from fsspec import register_implementation
except ImportError as error:
    raise ImportError(missing("natproxy.fs", "fsspec", "fsspec")) from error

from natproxy.fs.errors import FileChanged
from natproxy.fs.file import NatproxyFile
from natproxy.fs.filesystem import NatproxyFileSystem, SecureNatproxyFileSystem

# universal_pathlib searches fsspec's registry for the class, not the entry points.
register_implementation("natproxy", NatproxyFileSystem, clobber=True)
register_implementation("natproxys", SecureNatproxyFileSystem, clobber=True)

__all__ = ["FileChanged", "NatproxyFile", "NatproxyFileSystem", "SecureNatproxyFileSystem"]
