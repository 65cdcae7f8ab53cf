"""Reading arrays from the file formats people have, one module a family."""

from lemmata.apps.pde_surrogate.formats.opening import open_arrays
from lemmata.apps.pde_surrogate.formats.source import ArraySource, FieldFileError

__all__ = ["ArraySource", "FieldFileError", "open_arrays"]
