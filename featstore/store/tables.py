"""A unit's Parquet table, which checks nothing itself: sums, columns and sizes come first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from featstore.core.schema import COLUMNS, Corrupt, Refused
from featstore.store.unit import REPAIR, Unit

if TYPE_CHECKING:
    import pandas as pd

MAX_ROWS = 2_000_000
MAX_BYTES = 128 * 1024**2
"""No corpus of speech has more; a table of a few kilobytes can claim to."""

UTTERANCES = {name: COLUMNS[name] for name in COLUMNS if name != "duration_s"}
"""``corpus/utterances.parquet``: the manifest but for durations, which the audio unit has."""
SOURCES = {"utterance_id": "str", "sha256": "str", "duration_s": "float64"}
"""``audio/sources.parquet``: one row an utterance."""


def read_table(unit: Unit, name: str, columns: Mapping[str, str]) -> pd.DataFrame:
    """Read a table of a unit.

    Args:
        unit: whose.
        name: the file's name.
        columns: its columns and dtypes (``str`` or ``float64``), in order.

    Raises:
        Corrupt: the file is not the one that the record lists.
        Refused: it is no such table, or would not fit into memory.
    """
    unit.check(name)
    path = unit.path / name
    import pyarrow
    from pyarrow import parquet

    try:
        about = parquet.read_metadata(path)
        types = {field.name: field.type for field in about.schema.to_arrow_schema()}
        if about.num_rows > MAX_ROWS or not _fits(types, columns):
            held = ", ".join(f"{key} {kind}" for key, kind in list(types.items())[:12])
            raise Refused(f"{unit.unit}/{name}: {about.num_rows} rows of {held}", REPAIR)
        if packed(about):
            raise Refused(f"{unit.unit}/{name}: larger inside than any corpus", REPAIR)
        texts = [key for key, kind in columns.items() if kind == "str"]
        # As dictionaries a text that stands in every row takes its place once.
        table = parquet.read_table(path, read_dictionary=texts, use_threads=False)
        if sum(_decoded_bytes(table.column(text)) for text in texts) > MAX_BYTES:
            raise Refused(f"{unit.unit}/{name}: over {MAX_BYTES} bytes of text", REPAIR)
        schema = pyarrow.schema(
            [(key, pyarrow.string() if key in texts else pyarrow.float64()) for key in columns]
        )
        frame: pd.DataFrame = table.cast(schema).to_pandas()
    except (pyarrow.ArrowException, ValueError) as error:
        raise Corrupt(f"{unit.unit}/{name}: no Parquet table ({error})", REPAIR) from error
    if frame.isna().to_numpy().any():
        raise Corrupt(f"{unit.unit}/{name}: has gaps", REPAIR)
    return frame


def _fits(types: Mapping[str, Any], columns: Mapping[str, str]) -> bool:
    """Whether the columns are those, in that order, of those kinds."""
    import pyarrow

    kinds = {"str": (pyarrow.string(), pyarrow.large_string()), "float64": (pyarrow.float64(),)}
    return list(types) == list(columns) and all(
        types[name] in kinds[kind] for name, kind in columns.items()
    )


def packed(about: Any) -> bool:
    """Whether a table may take more memory than it should: by what it says of itself, or because
    its compression is not ours. A byte of Snappy's stands for 21 at most; of zstd's, for thousands.
    """
    groups = (about.row_group(number) for number in range(about.num_row_groups))
    columns = [group.column(number) for group in groups for number in range(group.num_columns)]
    return sum(column.total_uncompressed_size for column in columns) > MAX_BYTES or not {
        column.compression for column in columns
    } <= {"SNAPPY", "UNCOMPRESSED"}


def _decoded_bytes(column: Any) -> int:
    """Bytes of a dictionary-encoded text column once every row has its own."""
    from pyarrow import compute

    total = 0
    for chunk in column.chunks:
        lengths = compute.binary_length(chunk.dictionary).to_numpy(zero_copy_only=False)
        indices = chunk.indices.drop_null().to_numpy(zero_copy_only=False)
        total += int(lengths[indices].sum()) if len(indices) else 0
    return total
