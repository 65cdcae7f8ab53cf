"""Arrow's columns as NumPy arrays and categories; Arrow's types as kinds of columns."""

from typing import Any

import numpy as np
import numpy.typing as npt

from lemmata.apps.regression_at_scale.sources.part import Categories, Values
from lemmata.apps.regression_at_scale.sources.schema import CATEGORICAL, NUMERIC, OTHER, Column

__all__ = ["column_of", "to_values"]


def column_of(field: Any) -> Column:
    """Return the column that an Arrow field describes."""
    import pyarrow.types as kinds

    held = field.type.value_type if kinds.is_dictionary(field.type) else field.type
    if kinds.is_string(held) or kinds.is_large_string(held) or kinds.is_string_view(held):
        kind = CATEGORICAL
    elif any(
        test(held) for test in (kinds.is_integer, kinds.is_floating, kinds.is_decimal, kinds.is_boolean)
    ):
        kind = NUMERIC
    else:
        kind = OTHER
    return Column(field.name, kind, str(held))


def to_values(column: Any) -> Values:
    """Return an Arrow column (a `ChunkedArray`): numbers without a copy where Arrow's memory allows.

    Args:
        column: Numbers, booleans, decimals, text or a dictionary of one of these.

    Returns:
        Numbers with NaN where missing, or categories.
    """
    import pyarrow.types as kinds

    if kinds.is_dictionary(column.type):
        if column_of_type(column.type.value_type) == NUMERIC:
            return _numbers(column.cast(column.type.value_type))
        return _categories(column)
    if column_of_type(column.type) == NUMERIC:
        return _numbers(column)
    return _categories(column.dictionary_encode())


def column_of_type(kind: Any) -> str:
    """Return the kind of column that holds an Arrow type."""
    import pyarrow as pa

    return column_of(pa.field("", kind)).kind


def _numbers(column: Any) -> npt.NDArray[Any]:
    """Return numbers, widened to float64 where the type has no NaN for what is missing."""
    import pyarrow as pa
    import pyarrow.types as kinds

    wide = kinds.is_floating(column.type) and not kinds.is_float16(column.type)
    whole = kinds.is_integer(column.type) or kinds.is_floating(column.type)
    if not (wide or (whole and not column.null_count)):
        if kinds.is_boolean(column.type):
            column = column.cast(pa.uint8())
        # Not safe: an integer above 2^53 is rounded, as everything is that becomes a float.
        column = column.cast(pa.float64(), safe=False)
    chunks = [_filled(chunk, np.nan) for chunk in column.chunks]
    return chunks[0] if len(chunks) == 1 else np.concatenate(chunks or [np.empty(0)])


def _categories(column: Any) -> Categories:
    """Return the codes and levels of a dictionary column, whose chunks may have different dictionaries."""
    import pyarrow as pa

    merged = column.unify_dictionaries().combine_chunks()
    if not hasattr(merged, "indices"):  # chunks of equal dictionaries stay a chunked array in some versions
        merged = merged.chunk(0)
    codes = _filled(merged.indices.cast(pa.int32()), -1)
    levels = merged.dictionary.to_pylist()
    if None in levels:
        codes = np.where(codes == levels.index(None), -1, codes)
        levels = ["" if level is None else level for level in levels]
    return Categories(codes, tuple(levels))


def _filled(chunk: Any, missing: float) -> npt.NDArray[Any]:
    """Return an Arrow array of numbers, `missing` where it is null; Arrow's memory where nothing is.

    Arrow's own `to_numpy` and `fill_null` import pandas, a second and much memory for nothing.
    """
    import pyarrow as pa

    if not chunk.null_count:
        return np.from_dlpack(chunk)
    bare = pa.Array.from_buffers(chunk.type, len(chunk), [None, chunk.buffers()[1]], offset=chunk.offset)
    values = np.from_dlpack(bare).copy()
    values[np.from_dlpack(chunk.is_null().cast(pa.uint8())).astype(bool)] = missing
    return values
