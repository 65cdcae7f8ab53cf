"""Columns of a table, and which of them play which part in a regression."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["CATEGORICAL", "NUMERIC", "OTHER", "Column", "Selection", "check_names", "select"]

NUMERIC = "numeric"
CATEGORICAL = "categorical"
OTHER = "other"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        name: Its name, unique in the table.
        kind: `"numeric"` (integers, floats, decimals, booleans), `"categorical"` (text), or `"other"`
            (dates, lists, bytes: nothing that a regression takes).
        type: What the file calls its type.
    """

    name: str
    kind: str
    type: str


@dataclass(frozen=True)
class Selection:
    """Which columns are features, targets and weights.

    Args:
        features: Features in the order of the design matrix; `kind` says how each one is used.
        targets: Names of the target columns.
        weight: Name of the column of weights, or None.
    """

    features: tuple[Column, ...]
    targets: tuple[str, ...]
    weight: str | None = None

    @property
    def numeric(self) -> tuple[str, ...]:
        """Names of the features used as numbers."""
        return tuple(column.name for column in self.features if column.kind == NUMERIC)

    @property
    def categorical(self) -> tuple[str, ...]:
        """Names of the features used as categories."""
        return tuple(column.name for column in self.features if column.kind == CATEGORICAL)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns to read: features, targets, the weight."""
        weight = () if self.weight is None else (self.weight,)
        return (*(column.name for column in self.features), *self.targets, *weight)


def select(
    columns: Sequence[Column],
    *,
    target: str | Sequence[str] | None,
    features: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    categorical: Sequence[str] = (),
    weight: str | None = None,
) -> Selection:
    """Choose features, targets and weights among a table's columns.

    Args:
        columns: The table's columns.
        target: Name of the target, or several names; None where there is none.
        features: Names of the features; every other column but the excluded ones by default.
        exclude: Names of columns that are no features.
        categorical: Features whose numbers are names of categories (postcodes, say).
        weight: Name of the column of weights.

    Returns:
        The selection; features are in the order of `features`, or of the table.

    Raises:
        ValueError: Where a name is unknown, given twice or used for two things, a column's type cannot serve,
            or no feature or no target is left.

    Examples:
        >>> columns = [Column("a", "numeric", "int64"), Column("city", "categorical", "string")]
        >>> select([*columns, Column("y", "numeric", "double")], target="y").categorical
        ('city',)
    """
    known = {column.name: column for column in columns}
    targets = (target,) if isinstance(target, str) else tuple(target or ())
    if target is not None and not targets:
        raise ValueError("`target` (=()) must name at least one column")
    weights = () if weight is None else (weight,)
    given = {
        "target": targets,
        "weight": weights,
        "features": tuple(features or ()),
        "exclude": tuple(exclude),
        "categorical": tuple(categorical),
    }
    for option, named in given.items():
        _check_known(option, named, known)
    _check_apart({option: given[option] for option in ("target", "weight", "features")})
    _check_apart({option: given[option] for option in ("features", "exclude")})
    for name in (*targets, *weights):
        if known[name].kind != NUMERIC:
            raise ValueError(f"column {name!r} is {known[name].type}; a target or weight must be numeric")
    taken = {*targets, *weights, *exclude}
    names = tuple(name for name in known if name not in taken) if features is None else tuple(features)
    if not names:
        raise ValueError("no features: the table has no column besides targets, weight and excluded ones")
    if strays := [name for name in categorical if name not in names]:
        raise ValueError(f"`categorical` names {strays[0]!r}, which is not a feature")
    return Selection(tuple(_used(known[name], name in categorical) for name in names), targets, weight)


def check_names(path: str, names: Sequence[str]) -> None:
    """Raise where names of columns are empty or not unique.

    Args:
        path: The file they stand in.
        names: Names in their order.

    Raises:
        ValueError: Naming the file and the column.
    """
    if not names:
        raise ValueError(f"{path}: has no columns")
    seen: set[str] = set()
    for number, name in enumerate(names, 1):
        if not name.strip():
            raise ValueError(f"{path}: column {number} has no name (an index written by accident?)")
        if name in seen:
            raise ValueError(f"{path}: two columns are named {name!r}")
        seen.add(name)


def _check_known(option: str, names: Iterable[str], known: dict[str, Column]) -> None:
    """Raise where an option names a column that the table lacks, or one column twice."""
    seen: set[str] = set()
    for name in names:
        if name not in known:
            raise ValueError(f"`{option}` names {name!r}, which is no column; {_listed(list(known))}")
        if name in seen:
            raise ValueError(f"`{option}` names {name!r} twice")
        seen.add(name)


def _listed(names: list[str], most: int = 12) -> str:
    """List the first names of a table's columns."""
    more = "" if len(names) <= most else f", ... ({len(names)} in all)"
    return f"the table has {', '.join(names[:most])}{more}"


def _check_apart(options: dict[str, tuple[str, ...]]) -> None:
    """Raise where a column is named by two options."""
    owner: dict[str, str] = {}
    for option, names in options.items():
        for name in names:
            if name in owner:
                raise ValueError(f"column {name!r} is named by `{owner[name]}` and by `{option}`")
            owner[name] = option


def _used(column: Column, as_category: bool) -> Column:
    """Return a feature's column with the kind it is used as."""
    if column.kind == OTHER:
        raise ValueError(
            f"column {column.name!r} is {column.type}: neither numeric nor text; name it in `exclude`"
        )
    return Column(column.name, CATEGORICAL, column.type) if as_category else column
