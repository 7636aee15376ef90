"""An archive's file: rows of a table as compressed CSV or as Parquet, written and read back.

In CSV a NULL is `\\N`, and a text that begins with a backslash has another one before it; so NULL, the empty text and the text `\\N` stay apart.
"""

from __future__ import annotations

import csv
import gzip
import io
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

from router.storage.rows import BATCH, Kind, TableShape, batches

Format = Literal["csv", "parquet"]
SUFFIXES: dict[Format, str] = {"csv": ".csv.gz", "parquet": ".parquet"}
ROW_GROUP = 50 * BATCH
NULL = "\\N"

_OUT: dict[Kind, Callable[[Any], str]] = {
    "integer": str,
    "real": repr,
    "text": lambda text: "\\" + text if text.startswith("\\") else text,
    "bytes": lambda data: b64encode(data).decode(),
    "boolean": lambda truth: "true" if truth else "false",
    "json": lambda text: "\\" + text if text.startswith("\\") else text,
}
_IN: dict[Kind, Callable[[str], Any]] = {
    "integer": int,
    "real": float,
    "text": lambda cell: cell.removeprefix("\\"),
    "bytes": b64decode,
    "boolean": lambda cell: cell == "true",
    "json": lambda cell: cell.removeprefix("\\"),
}


def write_rows(file: BinaryIO, form: Format, table: TableShape, rows: Iterable[list[Any]]) -> None:
    """The same rows give the same bytes. Raises `ImportError` where Parquet's library is not installed."""
    if form == "parquet":
        _write_parquet(file, table, rows)
        return
    # No name and no time inside.
    with gzip.GzipFile("", "wb", 6, file, mtime=0) as zipped, io.TextIOWrapper(zipped, encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(column.name for column in table.columns)
        out = [_OUT[column.kind] for column in table.columns]
        for row in rows:
            writer.writerow(NULL if value is None else write(value) for write, value in zip(out, row, strict=True))


def read_rows(path: Path, form: Format, table: TableShape) -> Iterator[list[Any]]:
    """The rows again. Raises `ValueError`, `OSError` or `EOFError` for a file that is damaged or has other columns."""
    if form == "parquet":
        yield from _read_parquet(path, table)
        return
    csv.field_size_limit(2**31 - 1)
    with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
        reader = csv.reader(lines)
        if next(reader, None) != [column.name for column in table.columns]:
            raise ValueError(f"{path} has other columns")
        kinds = [_IN[column.kind] for column in table.columns]
        for cells in reader:
            yield [None if cell == NULL else read(cell) for read, cell in zip(kinds, cells, strict=True)]


def _write_parquet(file: BinaryIO, table: TableShape, rows: Iterable[list[Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"integer": pa.int64(), "real": pa.float64(), "text": pa.string(), "bytes": pa.binary(), "boolean": pa.bool_(), "json": pa.string()}
    schema = pa.schema([(column.name, types[column.kind]) for column in table.columns])
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for batch in batches(rows, ROW_GROUP):
            columns = [pa.array(values, type=field.type) for values, field in zip(zip(*batch, strict=True), schema, strict=True)]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def _read_parquet(path: Path, table: TableShape) -> Iterator[list[Any]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        if file.schema_arrow.names != [column.name for column in table.columns]:
            raise ValueError(f"{path} has other columns")
        for batch in file.iter_batches(batch_size=BATCH):
            for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                yield list(row)
