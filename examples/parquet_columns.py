"""Read one column of a remote Parquet file: only that column's bytes are transferred.

Requires the extra ``fsspec``, pandas and pyarrow.

Usage: python examples/parquet_columns.py natproxy://HOST:PORT/FILE.parquet COLUMN
"""

from __future__ import annotations

import sys

import pandas

if len(sys.argv) != 3:
    sys.exit(__doc__)
url, column = sys.argv[1:]
print(pandas.read_parquet(url, columns=[column]).describe())
