"""Regression and principal components on tables larger than memory, with a certificate.

Every verb of the command line is a function here, imported when it is first asked for; so are what they
return and what a pass of one's own is made of.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lemmata.apps.regression_at_scale.encoding import Dataset, Encoder, Rows, encode, open_rows
    from lemmata.apps.regression_at_scale.engine import Engine, Pass
    from lemmata.apps.regression_at_scale.methods.robust import fit_robust
    from lemmata.apps.regression_at_scale.model import RegressionModel
    from lemmata.apps.regression_at_scale.sources import open_table
    from lemmata.apps.regression_at_scale.verbs.compare import compare
    from lemmata.apps.regression_at_scale.verbs.coreset import coreset
    from lemmata.apps.regression_at_scale.verbs.demo import demo
    from lemmata.apps.regression_at_scale.verbs.doctor import doctor
    from lemmata.apps.regression_at_scale.verbs.fit import fit
    from lemmata.apps.regression_at_scale.verbs.generate import generate
    from lemmata.apps.regression_at_scale.verbs.pca import Components, pca
    from lemmata.apps.regression_at_scale.verbs.predict import predict
    from lemmata.apps.regression_at_scale.verbs.score import score

_LAZY = {
    "Components": "verbs.pca",
    "Dataset": "encoding",
    "Encoder": "encoding",
    "Engine": "engine",
    "Pass": "engine",
    "RegressionModel": "model",
    "Rows": "encoding",
    "compare": "verbs.compare",
    "coreset": "verbs.coreset",
    "demo": "verbs.demo",
    "doctor": "verbs.doctor",
    "encode": "encoding",
    "fit": "verbs.fit",
    "fit_robust": "methods.robust",
    "generate": "verbs.generate",
    "open_rows": "encoding",
    "open_table": "sources",
    "pca": "verbs.pca",
    "predict": "verbs.predict",
    "score": "verbs.score",
}

__all__ = [
    "Components",
    "Dataset",
    "Encoder",
    "Engine",
    "Pass",
    "RegressionModel",
    "Rows",
    "compare",
    "coreset",
    "demo",
    "doctor",
    "encode",
    "fit",
    "fit_robust",
    "generate",
    "open_rows",
    "open_table",
    "pca",
    "predict",
    "score",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return list(__all__)
