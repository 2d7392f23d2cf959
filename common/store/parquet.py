"""The log as Parquet, for DuckDB, pandas and others; the only place that knows pyarrow."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from common.store.queries import LoggedHop, LoggedRequest, RoutedRequest

_ROWS_PER_GROUP = 10_000


def write_parquet(requests: Iterable[RoutedRequest], path: Path) -> int:
    """Write the requests, hops as a list of structs, and give their number."""
    schema = pa.schema([*_fields(LoggedRequest), pa.field("hops", pa.list_(pa.struct(_fields(LoggedHop))))])
    written = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for group in _groups(iter(requests)):
            rows = [msgspec.to_builtins(request) for request in group]
            writer.write_table(pa.Table.from_pylist(rows, schema))
            written += len(group)
    return written


def _groups(requests: Iterator[RoutedRequest]) -> Iterator[list[RoutedRequest]]:
    while group := list(islice(requests, _ROWS_PER_GROUP)):
        yield group


def _fields(kind: type[msgspec.Struct]) -> list[Any]:
    return [
        pa.field(field.encode_name, _type(msgspec.inspect.type_info(field.type)))
        for field in msgspec.structs.fields(kind)
        if field.encode_name != "hops"
    ]


def _type(kind: msgspec.inspect.Type) -> Any:
    match kind:
        case msgspec.inspect.UnionType():
            return _type(next(each for each in kind.types if not isinstance(each, msgspec.inspect.NoneType)))
        case msgspec.inspect.BoolType():
            return pa.bool_()
        case msgspec.inspect.IntType():
            return pa.int64()
        case msgspec.inspect.FloatType():
            return pa.float64()
        case msgspec.inspect.VarTupleType():
            return pa.list_(_type(kind.item_type))
    return pa.string()
