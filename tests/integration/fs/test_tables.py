"""pandas and pyarrow read tables through the file system, as the documentation states."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from tests.support.filesystem_server import FileSystemServer
from tests.support.parquet import COLUMNS, ROWS, write_parquet


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("served")
    (directory / "days").mkdir()
    for day in (1, 2):
        (directory / f"days/{day}.csv").write_text(f"day,name\n{day},é\n{day},b\n")
    write_parquet(directory / "numbers.parquet", ROWS, 4)
    return directory


def test_pandas_reads_csv(server: FileSystemServer) -> None:
    import pandas

    frame = pandas.read_csv(f"{server.url}/days/1.csv")
    assert frame.to_dict("list") == {"day": [1, 1], "name": ["é", "b"]}
    days = fsspec.open_files(f"{server.url}/days/*.csv")
    with days as files:
        assert [len(pandas.read_csv(file)) for file in files] == [2, 2]


def test_one_column_of_twenty_moves_little_more_than_itself(server: FileSystemServer) -> None:
    from pyarrow import parquet

    path = server.directory / "numbers.parquet"
    size = path.stat().st_size
    assert size > 8_000_000
    fs = server.filesystem()
    before = len(server.replies())
    with fs.open("numbers.parquet") as file:
        column = parquet.ParquetFile(file).read(columns=["c7"])
    assert column == parquet.read_table(path, columns=["c7"])
    assert size / COLUMNS < server.bytes_moved(before) < size / 10
    fs.close()


def test_pandas_reads_one_column(server: FileSystemServer) -> None:
    import pandas

    before = len(server.replies())
    url = f"{server.url}/numbers.parquet"
    frame = pandas.read_parquet(url, columns=["c7"], storage_options={"retries": 0})
    assert frame.shape == (ROWS, 1)
    assert server.bytes_moved(before) < (server.directory / "numbers.parquet").stat().st_size / 5


def test_pyarrow_reads_a_dataset(server: FileSystemServer) -> None:
    from pyarrow import dataset

    fs = server.filesystem()
    days = dataset.dataset("/days", filesystem=fs, format="csv")
    assert sorted(days.to_table()["day"].to_pylist()) == [1, 1, 2, 2]
    fs.close()
