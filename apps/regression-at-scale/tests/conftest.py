"""Tables on disk, in every format, with known contents."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

Write = Callable[..., Path]


def write_parquet(path: Path, names: list[str], x: Any, **options: Any) -> None:
    """Write a matrix as a Parquet file."""
    pq.write_table(pa.table(dict(zip(names, x.T, strict=True))), path, **options)


def write_csv(path: Path, names: list[str], x: Any, **options: Any) -> None:
    """Write a matrix as a CSV file, to the last digit."""
    lines = [",".join(names), *(",".join(map(repr, row)) for row in x.tolist())]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_npy(path: Path, names: list[str], x: Any, **options: Any) -> None:
    """Write a matrix as an `.npy` file."""
    np.save(path, x)


def write_zarr(path: Path, names: list[str], x: Any, **options: Any) -> None:
    """Write a matrix as a Zarr store."""
    import zarr

    store = zarr.create_array(path, shape=x.shape, chunks=(50, x.shape[1]), dtype=x.dtype, **options)
    store[:] = x


@pytest.fixture
def matrix() -> Any:
    """A matrix of 1000 rows and 5 columns."""
    return np.random.default_rng(0).standard_normal((1000, 5))


@pytest.fixture
def write_parts(tmp_path: Path) -> Write:
    """Return a function that writes a matrix in a format, cut into parts, and returns their folder."""
    writers = {"parquet": write_parquet, "csv": write_csv, "npy": write_npy, "zarr": write_zarr}

    def write(
        x: Any, form: str, *, cuts: tuple[int, ...] = (), names: list[str] | None = None, **options: Any
    ) -> Path:
        folder = tmp_path / f"{form}-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        named = names or [f"c{j}" for j in range(x.shape[1])]
        for number, part in enumerate(np.split(x, cuts)):
            writers[form](folder / f"part-{number}.{form}", named, part, **options)
        return folder

    return write
