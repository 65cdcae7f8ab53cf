"""Where rows come from: tables in Parquet, CSV, NumPy, Zarr and LIBSVM files, read chunk by chunk."""

from lemmata.apps.regression_at_scale.sources.part import Block, Categories, Chunk, Part, Where
from lemmata.apps.regression_at_scale.sources.table import Table, open_table

__all__ = ["Block", "Categories", "Chunk", "Part", "Table", "Where", "open_table"]
