"""What the documentation promises of pandas and pyarrow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import fsspec
import pytest

from tests.integration.fs.test_fs import Running, running

COLUMNS = 20
ROWS = 52_000


def write_parquet(path: Path, rows: int, row_groups: int) -> None:
    """Write columns of numbers that no encoding makes smaller."""
    import pyarrow
    from pyarrow import parquet

    random = Random(1)
    columns = {
        f"c{number}": pyarrow.array(memoryview(random.randbytes(8 * rows)).cast("q").tolist())
        for number in range(COLUMNS)
    }
    table = pyarrow.table(columns)
    parquet.write_table(table, path, row_group_size=rows // row_groups, use_dictionary=False)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("served")
    (directory / "days").mkdir()
    for day in (1, 2):
        (directory / f"days/{day}.csv").write_text(f"day,name\n{day},é\n{day},b\n")
    write_parquet(directory / "numbers.parquet", ROWS, 4)
    with running(directory, tmp_path_factory.mktemp("log") / "log") as server:
        yield server


def test_pandas_reads_csv(server: Running) -> None:
    import pandas

    frame = pandas.read_csv(f"{server.url}/days/1.csv")
    assert frame.to_dict("list") == {"day": [1, 1], "name": ["é", "b"]}
    days = fsspec.open_files(f"{server.url}/days/*.csv")
    with days as files:
        assert [len(pandas.read_csv(file)) for file in files] == [2, 2]


def test_one_column_of_twenty_moves_little_more_than_itself(server: Running) -> None:
    from pyarrow import parquet

    path = server.directory / "numbers.parquet"
    size = path.stat().st_size
    assert size > 8_000_000
    fs = server.filesystem()
    before = len(server.replies())
    with fs.open("numbers.parquet") as file:
        column = parquet.ParquetFile(file).read(columns=["c7"])
    assert column == parquet.read_table(path, columns=["c7"])
    assert size / COLUMNS < server.moved(before) < size / 10
    fs.close()


def test_pandas_reads_one_column(server: Running) -> None:
    import pandas

    before = len(server.replies())
    url = f"{server.url}/numbers.parquet"
    frame = pandas.read_parquet(url, columns=["c7"], storage_options={"retries": 0})
    assert frame.shape == (ROWS, 1)
    assert server.moved(before) < (server.directory / "numbers.parquet").stat().st_size / 5


def test_pyarrow_reads_a_dataset(server: Running) -> None:
    from pyarrow import dataset

    fs = server.filesystem()
    days = dataset.dataset("/days", filesystem=fs, format="csv")
    assert sorted(days.to_table()["day"].to_pylist()) == [1, 1, 2, 2]
    fs.close()
