"""Rows of a CSV or Parquet table as text. Nothing in it is trusted."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from stlm_core.data.adapters.base import printable
from stlm_core.errors import UserError

COLUMNS = ("path", "split", "label", "defect_type", "mask_path", "group")
SUFFIXES = (".csv", ".parquet")
_ROWS_AT_A_TIME = 4096
_LONGEST = 2048  # characters of a value; messages show values

Row = Mapping[str, str]


def read_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """(number, value by column) of each row. Values have no space around them; "" where a column or value is missing.

    The number is that of the line in a CSV file, in which empty lines are skipped, and counts from 1 in a Parquet file.
    A CSV file may separate its values by commas, semicolons or tabs, and write its column names in capitals.

    Raises:
        UserError: the table cannot be read, has no column ``path`` or an unknown one, a row of another length than the
            header, or a value that is not text, is far too long or has control characters.
    """
    rows = _parquet_rows(path) if path.suffix.lower() == ".parquet" else _csv_rows(path)
    for number, row in rows:
        for column, value in row.items():
            if len(value) > _LONGEST:
                raise UserError(f"{path}: row {number}: `{column}` has more than {_LONGEST} characters")
            if printable(value) != value:
                raise UserError(f"{path}: row {number}: control characters in `{column}`")
        yield number, {column: row.get(column, "") for column in COLUMNS}


def _csv_rows(path: Path) -> Iterator[tuple[int, Row]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, delimiter=_separator(stream), strict=True)
            try:
                yield from _checked(path, reader)
            except csv.Error as error:
                raise UserError(f"{path}: row {reader.line_num}: cannot be read as CSV: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as CSV: {error}") from None


def _separator(stream: TextIO) -> str:
    """What stands between the names of the columns: a comma, or what Excel writes in countries with decimal commas."""
    line = stream.readline(_LONGEST)
    while line and not line.strip():
        line = stream.readline(_LONGEST)
    stream.seek(0)
    return max(",;\t", key=line.count)


def _checked(path: Path, reader: Any) -> Iterator[tuple[int, Row]]:
    header: list[str] | None = None
    for values in reader:
        stripped = [value.strip() for value in values]
        if not any(stripped):
            continue
        if header is None:
            header = [name.lower() for name in stripped]
            _check_columns(path, header)
        elif len(stripped) != len(header):
            raise UserError(f"{path}: row {reader.line_num}: {len(stripped)} values, {len(header)} are needed")
        else:
            yield reader.line_num, dict(zip(header, stripped, strict=True))
    if header is None:
        raise UserError(f"{path}: empty; the first row must name the columns")


def _parquet_rows(path: Path) -> Iterator[tuple[int, Row]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            _check_columns(path, file.schema_arrow.names)
            number = 0
            for batch in file.iter_batches(_ROWS_AT_A_TIME):
                for values in batch.to_pylist():
                    number += 1
                    yield number, {column: _text(path, number, column, value) for column, value in values.items()}
    except (OSError, ValueError, MemoryError, pa.ArrowException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: cannot be read as Parquet: {printable(reason)}") from None


def _text(path: Path, number: int, column: str, value: Any) -> str:
    if value is None or value != value:  # pandas writes NaN for a missing value
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, (bool, int)) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))  # labels; with missing values among them pandas makes them floats
    raise UserError(f"{path}: row {number}: `{column}` is neither text nor a whole number")


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    if "path" not in columns:
        found = printable(", ".join(columns)[:200])
        raise UserError(f"{path}: no column `path` among {found}; known columns: {', '.join(COLUMNS)}")
    for column in columns:
        if column not in COLUMNS:
            raise UserError(f"{path}: unknown column {printable(column[:200])!r}; known columns: {', '.join(COLUMNS)}")
        if list(columns).count(column) > 1:
            raise UserError(f"{path}: column {column!r} occurs twice")
