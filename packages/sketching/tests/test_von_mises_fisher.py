"""The von Mises-Fisher distribution against quadrature, closed forms, SciPy and its own samples."""

import itertools
import math

import pytest
import scipy.integrate
import scipy.stats
import torch
from torch.distributions import kl_divergence

from lemmata.sketching.special import VMFMixture, VonMisesFisher, fit_vmf, iv_ratio
from lemmata.sketching.special.von_mises_fisher import _shortfall_slope


def axis(p, dtype=torch.float64):
    return torch.nn.functional.one_hot(torch.tensor(0), p).to(dtype)


def direction(p, seed=0):
    normal = torch.randn(p, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return normal / normal.norm()


def log_density_of_cosine(sphere, w):
    """Return the log-density at one cosine, and the log-area of the circle of that cosine."""
    p = sphere.event_shape[0]
    z = torch.zeros(p, dtype=torch.float64)
    z[0], z[1] = w, math.sqrt(1 - w * w)
    area = math.log(2) + (p - 1) / 2 * math.log(math.pi) - math.lgamma((p - 1) / 2)
    return sphere.log_prob(z).item() + area + (p - 3) / 2 * math.log(1 - w * w)


@pytest.mark.parametrize("p", [2, 3, 4, 10, 100])
@pytest.mark.parametrize("kappa", [0.0, 0.3, 8.0, 150.0])
def test_integrates_to_one(p, kappa):
    sphere = VonMisesFisher(axis(p), kappa)
    total, _ = scipy.integrate.quad(
        lambda angle: math.exp(log_density_of_cosine(sphere, math.cos(angle))) * math.sin(angle),
        1e-9, math.pi - 1e-9, limit=400, points=[1e-3, 0.1, 1.0],
    )  # fmt: skip
    assert total == pytest.approx(1, rel=1e-6)


def test_closed_form_in_three_dimensions():
    kappa = torch.tensor([1e-3, 1.0, 30.0], dtype=torch.float64)
    sphere = VonMisesFisher(axis(3), kappa)
    expected = torch.log(kappa / (4 * math.pi * torch.sinh(kappa))) + kappa
    torch.testing.assert_close(sphere.log_prob(axis(3)), expected, rtol=1e-12, atol=1e-12)


def test_equals_scipy():
    mu, z = direction(7), direction(7, seed=1)
    for kappa in (0.5, 20.0):
        ours, theirs = VonMisesFisher(mu, kappa), scipy.stats.vonmises_fisher(mu.numpy(), kappa)
        assert ours.log_prob(z).item() == pytest.approx(theirs.logpdf(z.numpy()), rel=1e-12)
        assert ours.entropy().item() == pytest.approx(theirs.entropy(), rel=1e-11)


def test_uniform_at_zero_concentration_in_any_dimension():
    for p in (2, 3, 64, 32768):
        area = math.log(2) + p / 2 * math.log(math.pi) - math.lgamma(p / 2)
        sphere = VonMisesFisher(axis(p), 0.0)
        assert sphere.log_prob(axis(p)).item() == pytest.approx(-area, rel=1e-12)
        assert sphere.entropy().item() == pytest.approx(area, rel=1e-12)


@pytest.mark.parametrize("p", [2, 3, 20, 32768])
@pytest.mark.parametrize("ratio", [0.05, 0.8, 20.0])
def test_samples_have_the_mean_and_spread(p, ratio):
    kappa, mu = ratio * p, direction(p)
    count = 40 if p > 1000 else 4000
    x = VonMisesFisher(mu, kappa).rsample((count,), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(x.norm(dim=-1), torch.ones(count, dtype=torch.float64), rtol=0, atol=1e-12)
    cosine = x @ mu
    mean = iv_ratio(p / 2 - 1, torch.tensor(kappa, dtype=torch.float64)).item()
    variance = 1 - mean**2 - (p - 1) * mean / kappa
    assert cosine.mean().item() == pytest.approx(mean, abs=5 * math.sqrt(variance / count))
    # Around the mean direction no direction is preferred.
    side = (x - cosine[:, None] * mu).mean(0)
    assert side.norm().item() <= 6 * math.sqrt((1 - mean**2) / count)


@pytest.mark.parametrize(
    ("p", "kappa"), [(2, 0.7), (2, 60.0), (3, 4.0), (10, 1.0), (10, 300.0), (500, 200.0)]
)
def test_reparametrised_cosine_follows_the_distribution_function(p, kappa):
    def below(angle, k):
        weight = lambda t: math.exp(k * (math.cos(t) - math.cos(top))) * (math.sin(t) / peak) ** (p - 2)  # noqa: E731
        mean = iv_ratio(p / 2 - 1, torch.tensor(k, dtype=torch.float64)).item()
        top = math.acos(min(1.0, mean))
        peak = max(math.sin(top), 1e-3)
        options = {"epsabs": 0, "epsrel": 1e-12, "limit": 400}
        edges = sorted(
            {0.0, math.pi, angle, *[min(math.pi, max(0.0, top + f)) for f in (-0.5, -0.1, 0.0, 0.1, 0.5)]}
        )
        parts = [scipy.integrate.quad(weight, a, b, **options)[0] for a, b in itertools.pairwise(edges)]
        return sum(parts[: edges.index(angle)]) / sum(parts)

    sphere = VonMisesFisher(axis(p), kappa)
    x = sphere.rsample((5,), generator=torch.Generator().manual_seed(3))
    for cosine in x[:, 0].tolist():
        angle, step = math.acos(cosine), 1e-4 * kappa
        slope_of_function = (below(angle, kappa + step) - below(angle, kappa - step)) / (2 * step)
        density = math.exp(log_density_of_cosine(sphere, cosine)) * math.sin(angle)
        # d(1 - cos angle) = sin(angle) d(angle), and d(angle) = -slope / density of the angle.
        expected = -math.sin(angle) * slope_of_function / density
        ours = _shortfall_slope(
            *(torch.tensor([value], dtype=torch.float64) for value in (1 - cosine, kappa)), p
        )
        assert ours.item() == pytest.approx(expected, rel=2e-4, abs=1e-9)


def test_pathwise_gradient_is_that_of_the_mean():
    kappa = torch.tensor(6.0, dtype=torch.float64, requires_grad=True)
    mu = direction(5).requires_grad_()
    x = VonMisesFisher(mu / mu.norm(), kappa).rsample((20000,), generator=torch.Generator().manual_seed(1))
    weight = direction(5, seed=2)
    found = torch.autograd.grad((x @ weight).mean(), (kappa, mu))
    expected = torch.autograd.grad(VonMisesFisher(mu / mu.norm(), kappa).mean @ weight, (kappa, mu))
    for ours, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, exact, rtol=0.05, atol=0.01)


def test_divergence_and_entropy_are_expectations():
    first, second = VonMisesFisher(direction(6), 9.0), VonMisesFisher(direction(6, seed=1), 4.0)
    x = first.rsample((40000,), generator=torch.Generator().manual_seed(0))
    log_ratio = first.log_prob(x) - second.log_prob(x)
    error = 5 * log_ratio.std().item() / 200
    assert kl_divergence(first, second).item() == pytest.approx(log_ratio.mean().item(), abs=error)
    assert kl_divergence(first, first).item() == pytest.approx(0, abs=1e-12)
    assert first.entropy().item() == pytest.approx(-first.log_prob(x).mean().item(), abs=0.03)


def test_batches_broadcast_and_expand():
    loc = torch.stack([direction(4, seed) for seed in range(3)])
    sphere = VonMisesFisher(loc, torch.tensor([[1.0], [5.0]], dtype=torch.float64))
    assert sphere.batch_shape == (2, 3)
    assert sphere.rsample((7,)).shape == (7, 2, 3, 4)
    assert sphere.expand((6, 2, 3)).log_prob(loc).shape == (6, 2, 3)
    assert VonMisesFisher(loc.float(), 2.0).sample().dtype == torch.float32


@pytest.mark.parametrize("p", [2, 64, 2048, 32768])
def test_fit_recovers_the_concentration_in_a_few_steps(p):
    kappa, mu = 0.8 * p, direction(p)
    x = VonMisesFisher(mu, kappa).rsample((400,), generator=torch.Generator().manual_seed(0))
    fit = fit_vmf(x)
    assert fit.concentration.item() == pytest.approx(kappa, rel=0.15 if p == 2 else 0.05)
    assert abs(fit.residual) <= 1e-12
    assert fit.iterations <= 5
    assert (fit.loc @ mu).item() > 0.9
    assert fit.loglik.item() == pytest.approx(fit.distribution.log_prob(x).sum().item(), rel=1e-9)
    if p == 64:
        _, theirs = scipy.stats.vonmises_fisher.fit(x.numpy())
        assert fit.concentration.item() == pytest.approx(theirs, rel=1e-8)


def test_weights_equal_repeated_rows():
    x = VonMisesFisher(direction(5), 3.0).rsample((6,), generator=torch.Generator().manual_seed(0))
    counts = torch.tensor([1, 2, 3, 1, 1, 2])
    weighted, repeated = fit_vmf(x, counts.double()), fit_vmf(x.repeat_interleave(counts, 0))
    torch.testing.assert_close(weighted.concentration, repeated.concentration)
    torch.testing.assert_close(weighted.loglik, repeated.loglik)


def test_concentrated_data():
    x = VonMisesFisher(direction(3), 1e8).rsample((500,), generator=torch.Generator().manual_seed(0))
    assert fit_vmf(x).concentration.item() == pytest.approx(1e8, rel=0.2)


def test_mixture_finds_clusters_and_its_likelihood_never_falls():
    generator = torch.Generator().manual_seed(0)
    centres = torch.stack([direction(50, seed) for seed in range(3)])
    x = VonMisesFisher(centres, torch.tensor([40.0, 80.0, 160.0], dtype=torch.float64)).rsample(
        (80,), generator=generator
    )
    mixture = VMFMixture(3).fit(x.reshape(-1, 50), generator=generator)
    labels = mixture.predict(x.reshape(-1, 50)).reshape(80, 3)
    truth = [column.bincount(minlength=3).argmax().item() for column in labels.T]
    assert sorted(truth) == [0, 1, 2]
    assert (labels == torch.tensor(truth)).double().mean().item() > 0.97
    assert all(
        after >= before - 1e-9 for before, after in zip(mixture.loglik, mixture.loglik[1:], strict=False)
    )
    assert mixture.weights.sum().item() == pytest.approx(1)
    torch.testing.assert_close(mixture.responsibilities(x[:, 0]).sum(-1), torch.ones(80, dtype=torch.float64))
    alone = VMFMixture(1).fit(x[:, 0], generator=generator)
    assert alone.concentration.item() == pytest.approx(fit_vmf(x[:, 0]).concentration.item(), rel=1e-6)
    torch.testing.assert_close(alone.log_prob(x[:, 0]).sum(), fit_vmf(x[:, 0]).loglik, rtol=1e-6, atol=0)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="`loc` must hold unit vectors"):
        VonMisesFisher(torch.ones(3), 1.0)
    with pytest.raises(ValueError, match="two or more components"):
        VonMisesFisher(torch.ones(1), 1.0)
    with pytest.raises(ValueError, match="concentration"):
        VonMisesFisher(axis(3), -1.0)
    with pytest.raises(ValueError, match="`value` must hold unit vectors"):
        VonMisesFisher(axis(3), 1.0).log_prob(2 * axis(3))
    with pytest.raises(ValueError, match="same row throughout"):
        fit_vmf(axis(4).repeat(5, 1))
    with pytest.raises(ValueError, match="sum is zero"):
        fit_vmf(torch.stack([axis(4), -axis(4)]))
    with pytest.raises(ValueError, match="`weights`"):
        fit_vmf(axis(4).repeat(2, 1), torch.tensor([1.0, -1.0]))
    with pytest.raises(ValueError, match="at least 3 rows"):
        VMFMixture(3).fit(axis(4).repeat(2, 1))
    with pytest.raises(ValueError, match="`components`"):
        VMFMixture(0)
