"""Tables for the tests of pyarrow and pandas on the file system."""

from __future__ import annotations

from pathlib import Path
from random import Random

COLUMNS = 20
ROWS = 52_000


def write_parquet(path: Path, rows: int, row_groups: int) -> None:
    """Write `COLUMNS` columns of numbers that no encoding makes smaller."""
    import pyarrow
    from pyarrow import parquet

    random = Random(1)
    columns = {
        f"c{number}": pyarrow.array(memoryview(random.randbytes(8 * rows)).cast("q").tolist())
        for number in range(COLUMNS)
    }
    table = pyarrow.table(columns)
    parquet.write_table(table, path, row_group_size=rows // row_groups, use_dictionary=False)
