"""Logarithms of Bessel functions beside SciPy's functions on the same orders and arguments."""

import numpy as np
import pytest
import scipy.special
import torch

from lemmata.sketching import fit_vmf, iv_ratio, log_iv, log_kv

COUNT = 200_000
PEERS = {"I": scipy.special.ive, "K": scipy.special.kve}
OURS = {"I": log_iv, "K": log_kv}


def points() -> tuple[torch.Tensor, torch.Tensor]:
    """Draw orders and arguments where SciPy works."""
    generator = torch.Generator().manual_seed(0)
    v, x = 300 * torch.rand(2, COUNT, dtype=torch.float64, generator=generator)
    return v, x


def race(benchmark, side: str, kind: str, *, compiled: bool) -> None:
    """Time one side."""
    v, x = points()
    if side == "lemmata":
        function = OURS[kind]
        if compiled:
            torch.compiler.reset()
            function = torch.compile(function, fullgraph=True)
        benchmark.extra_info["bar"] = 0.2 if compiled else 1.0
        benchmark.pedantic(lambda: function(v, x, validate=False), rounds=7, warmup_rounds=2)
        return
    orders, arguments = v.numpy(), x.numpy()
    peer = PEERS[kind]
    with np.errstate(divide="ignore"):  # it underflows to zero in a corner
        benchmark.pedantic(lambda: np.log(peer(orders, arguments)), rounds=7, warmup_rounds=1)


@pytest.mark.parametrize("side", ["lemmata", f"scipy {scipy.__version__} log(ive)"])
@pytest.mark.benchmark(group="log I, 200,000 orders and arguments in [0, 300], compiled")
def bench_log_iv_compiled(benchmark, side):
    """Time log I under torch.compile."""
    race(benchmark, side, "I", compiled=True)


@pytest.mark.parametrize("side", ["lemmata", f"scipy {scipy.__version__} log(ive)"])
@pytest.mark.benchmark(group="log I, 200,000 orders and arguments in [0, 300], eager")
def bench_log_iv_eager(benchmark, side):
    """Time log I as it is called."""
    race(benchmark, side, "I", compiled=False)


@pytest.mark.parametrize("side", ["lemmata", f"scipy {scipy.__version__} log(kve)"])
@pytest.mark.benchmark(group="log K, 200,000 orders and arguments in [0, 300], eager")
def bench_log_kv_eager(benchmark, side):
    """Time log K as it is called."""
    race(benchmark, side, "K", compiled=False)


@pytest.mark.parametrize("side", ["lemmata", f"scipy {scipy.__version__}"])
@pytest.mark.benchmark(group="fit of a von Mises-Fisher distribution, 2000 rows in 64 dimensions")
def bench_fit(benchmark, side):
    """Time a maximum likelihood fit."""
    x = torch.nn.functional.normalize(torch.randn(2000, 64, dtype=torch.float64) + 0.2, dim=-1)
    if side == "lemmata":
        benchmark.extra_info["bar"] = 1.0
        benchmark(lambda: fit_vmf(x))
        return
    rows = x.numpy()
    benchmark(lambda: scipy.stats.vonmises_fisher.fit(rows))


@pytest.mark.parametrize("side", ["lemmata", f"scipy {scipy.__version__} ive / ive"])
@pytest.mark.benchmark(group="I_{v+1} / I_v, 200,000 orders and arguments in [0, 300], eager")
def bench_ratio(benchmark, side):
    """Time the ratio of two orders."""
    v, x = points()
    if side == "lemmata":
        benchmark.extra_info["bar"] = 1.0
        benchmark.pedantic(lambda: iv_ratio(v, x, validate=False), rounds=7, warmup_rounds=2)
        return
    orders, arguments = v.numpy(), x.numpy()
    with np.errstate(invalid="ignore"):  # zero over zero in the corner where it underflows
        benchmark.pedantic(
            lambda: scipy.special.ive(orders + 1, arguments) / scipy.special.ive(orders, arguments),
            rounds=7,
            warmup_rounds=1,
        )
