"""Maps between function spaces: neural operators, the solvers that feed or replace them, and norms of fields.

Every public name of the package's foundation is here; the names that only some need are one level down, in
`neural`, `pde`, `solvers`, `losses` and their neighbours.
"""

from lemmata.operators.data import FieldDataset, MultiResolutionLoader
from lemmata.operators.grids import FourierFeatures, Grid, grid
from lemmata.operators.losses import (
    BochnerNorm,
    RelativeH1,
    RelativeLp,
    RelativeSobolev,
    SobolevNorm,
    bochner_norm,
    lp_norm,
    relative_h1,
    relative_lp,
    relative_sobolev,
    sobolev_norm,
)
from lemmata.operators.neural import FNO, SpectralBlock, SpectralConv, fourier_resample
from lemmata.operators.normalize import GaussianNormalizer, IdentityNormalizer, RangeNormalizer
from lemmata.operators.pde import (
    Advection1d,
    Burgers1d,
    Darcy2d,
    GaussianRandomField,
    Helmholtz2d,
    KdV1d,
    KuramotoSivashinsky1d,
    NavierStokes2d,
    Poisson2d,
    etdrk4,
)
from lemmata.operators.quadrature import quadrature_weights

__all__ = [
    "FNO",
    "Advection1d",
    "BochnerNorm",
    "Burgers1d",
    "Darcy2d",
    "FieldDataset",
    "FourierFeatures",
    "GaussianNormalizer",
    "GaussianRandomField",
    "Grid",
    "Helmholtz2d",
    "IdentityNormalizer",
    "KdV1d",
    "KuramotoSivashinsky1d",
    "MultiResolutionLoader",
    "NavierStokes2d",
    "Poisson2d",
    "RangeNormalizer",
    "RelativeH1",
    "RelativeLp",
    "RelativeSobolev",
    "SobolevNorm",
    "SpectralBlock",
    "SpectralConv",
    "bochner_norm",
    "etdrk4",
    "fourier_resample",
    "grid",
    "lp_norm",
    "quadrature_weights",
    "relative_h1",
    "relative_lp",
    "relative_sobolev",
    "sobolev_norm",
]
