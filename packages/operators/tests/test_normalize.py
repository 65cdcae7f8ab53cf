import copy
import functools
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmata.operators.data import fingerprint
from lemmata.operators.normalize import GaussianNormalizer, IdentityNormalizer, Normalizer, RangeNormalizer

KINDS = [GaussianNormalizer, RangeNormalizer]
DIMS = ["channel", "point", (0,), (0, 2), (0, 1, 2, 3)]


def fields(n=12, channels=3, shape=(5, 4), seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    scale = 10.0 ** torch.arange(channels).reshape(-1, *[1] * len(shape))
    x = torch.randn(n, channels, *shape, generator=generator, dtype=torch.float64)
    return (scale * (x + 3.0)).to(dtype)


def statistics(normalizer):
    return {
        name: value for name, value in normalizer.state_dict().items() if name not in {"digest", "samples"}
    }


@pytest.mark.parametrize(("dims", "axes"), [("channel", (0, 2, 3)), ("point", (0,)), ((0, 2), (0, 2))])
def test_gaussian_is_numpys_mean_and_std(dims, axes):
    x = fields()
    normalizer = GaussianNormalizer(dims)
    normalizer.fit(x)
    mean, std = (f(x.numpy(), axis=axes, keepdims=True) for f in (np.mean, np.std))
    np.testing.assert_allclose(normalizer(x).numpy(), (x.numpy() - mean) / std, rtol=0, atol=1e-12)


def test_range_maps_the_extremes_to_its_ends():
    x = fields()
    normalizer = RangeNormalizer(-2.0, 3.0)
    normalizer.fit(x)
    y = normalizer(x).movedim(1, 0).flatten(1)
    torch.testing.assert_close(y.amin(1), torch.full((3,), -2.0, dtype=torch.float64))
    torch.testing.assert_close(y.amax(1), torch.full((3,), 3.0, dtype=torch.float64))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_inverse_undoes_forward(kind, dims, dtype, tolerance):
    x = fields(dtype=dtype)
    normalizer = kind(dims=dims)
    normalizer.fit(x)
    assert normalizer(x).dtype == dtype
    torch.testing.assert_close(normalizer.inverse(normalizer(x)), x, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dims", DIMS)
@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(0, 12), max_size=4), seed=st.integers(0, 99))
def test_a_stream_gives_the_figures_of_one_pass(kind, dims, cuts, seed):
    x = fields(seed=seed)
    whole, stream = kind(dims=dims), kind(dims=dims)
    whole.fit(x)
    for piece in torch.tensor_split(x, sorted(cuts)):  # some are empty
        stream.partial_fit(piece)
    for name, value in statistics(whole).items():
        torch.testing.assert_close(getattr(stream, name), value, rtol=1e-12, atol=0)
    assert stream.fingerprint == whole.fingerprint == fingerprint(x)


@settings(max_examples=25, deadline=None)
@given(sizes=st.tuples(*[st.integers(0, 6)] * 3), seed=st.integers(0, 99))
def test_merging_is_associative_and_commutative(sizes, seed):
    def part(index):
        normalizer = GaussianNormalizer()
        normalizer.partial_fit(fields(sizes[index], seed=seed + index))
        return normalizer

    left = part(0).merge(part(1)).merge(part(2))
    right = part(0).merge(part(1).merge(part(2)))
    turned = functools.reduce(lambda a, b: a.merge(b), [part(2), part(0), part(1)])
    for other in (right, turned):
        assert other.fingerprint == left.fingerprint
        for name, value in statistics(left).items():
            torch.testing.assert_close(getattr(other, name), value, rtol=1e-12, atol=0)


def test_variance_survives_a_large_mean():
    x = 1e8 + torch.arange(4.0, dtype=torch.float64).reshape(4, 1, 1)
    normalizer = GaussianNormalizer(eps=1e-12)
    for sample in x.split(1):
        normalizer.partial_fit(sample)
    torch.testing.assert_close(
        normalizer.std, torch.tensor([1.25**0.5], dtype=torch.float64), rtol=1e-12, atol=0
    )


def test_fit_takes_an_iterable_and_forgets_what_was_before():
    x = fields()
    normalizer = GaussianNormalizer()
    normalizer.fit(fields(seed=1, channels=2))
    seen = normalizer.fit(batch for batch in x.split(5))
    assert seen == fingerprint(x)
    assert int(normalizer.samples) == len(x)
    np.testing.assert_allclose(normalizer.mean.numpy(), x.numpy().mean(axis=(0, 2, 3)), rtol=1e-12)


def test_fingerprint_tells_data_apart_and_not_their_order():
    x = fields()
    normalizer = GaussianNormalizer()
    seen = normalizer.fit(x)
    assert normalizer.fit(x.flip(0)) == seen
    assert normalizer.fit(x[:-1]) != seen
    assert normalizer.fit(torch.cat([x, x[:1]])) != seen
    assert normalizer.fit(x.float()) != seen
    assert normalizer.fit(x.reshape(12, 3, 4, 5)) != seen


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("assign", [False, True])
def test_state_loads_into_a_fresh_module(kind, dims, assign, tmp_path):
    x = fields()
    model = torch.nn.ModuleDict({"normalizer": kind(dims=dims)})
    model["normalizer"].fit(x[:7])
    torch.save(model.state_dict(), tmp_path / "state.pt")
    fresh = torch.nn.ModuleDict({"normalizer": kind(dims=dims)})
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True), assign=assign)
    assert torch.equal(fresh["normalizer"](x), model["normalizer"](x))
    # a stream goes on where it was saved
    fresh["normalizer"].partial_fit(x[7:])
    model["normalizer"].partial_fit(x[7:])
    assert fresh["normalizer"].fingerprint == fingerprint(x)
    assert torch.equal(fresh["normalizer"](x), model["normalizer"](x))


def test_state_of_another_grid_replaces_a_fitted_one():
    coarse, fine = GaussianNormalizer("point"), GaussianNormalizer("point")
    coarse.fit(fields(shape=(3, 3)))
    fine.fit(fields(shape=(6, 6)))
    coarse.load_state_dict(fine.state_dict())
    assert coarse.mean.shape == (3, 6, 6)
    with pytest.raises(RuntimeError, match="Missing key"):
        coarse.load_state_dict({})


@pytest.mark.parametrize("kind", KINDS)
def test_unfitted_use_says_so(kind):
    for call in (kind(), kind().inverse):
        with pytest.raises(RuntimeError, match=rf"{kind.__name__} is not fitted; call `fit`"):
            call(torch.zeros(1, 1, 4))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0.0, 0.1, -1e6, 1e-20])
def test_a_constant_channel_warns_by_its_name(kind, value):
    x = fields()
    x[:, 1] = value
    normalizer = kind()
    with pytest.warns(UserWarning, match=r"channels \[1\] are constant"):
        normalizer.fit(x)
    assert normalizer.constant_channels() == [1]
    y = normalizer(x)
    assert y.isfinite().all()
    assert y[:, 1].abs().max() < 1e-3
    torch.testing.assert_close(normalizer.inverse(y), x, rtol=1e-12, atol=1e-12)


def test_a_point_that_is_constant_is_not_a_channel_that_is():
    x = fields()
    x[..., 0, :] = 0.0
    normalizer = GaussianNormalizer("point")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        normalizer.fit(x)
    assert normalizer(x).isfinite().all()


def test_small_physical_units_are_no_constant():
    x = 1e-13 * fields(channels=1)
    normalizer = GaussianNormalizer()
    normalizer.fit(x)
    assert normalizer.constant_channels() == []
    torch.testing.assert_close(normalizer(x).std(correction=0), torch.tensor(1.0, dtype=torch.float64))


def test_point_statistics_belong_to_one_grid():
    normalizer = GaussianNormalizer("point")
    normalizer.fit(fields(shape=(5, 4)))
    with pytest.raises(ValueError, match=r"\(5, 4\) belong to the grid.*got a grid \(8, 4\)"):
        normalizer(fields(shape=(8, 4)))
    with pytest.raises(ValueError, match=r"so far have shape \(3, 5, 4\).*new fields \(3, 8, 4\)"):
        normalizer.partial_fit(fields(shape=(8, 4)))
    assert int(normalizer.samples) == 12


def test_channel_statistics_fit_every_grid_and_dimension():
    normalizer = GaussianNormalizer()
    normalizer.fit([fields(shape=(5, 4)), fields(shape=(8, 8))])
    assert normalizer(fields(shape=(3, 3, 3))).shape == (12, 3, 3, 3, 3)
    assert normalizer(fields(n=1, shape=())).shape == (1, 3)
    with pytest.raises(ValueError, match="expected 3 channels, got 2"):
        normalizer(fields(channels=2))


@pytest.mark.parametrize("kind", KINDS)
def test_bad_data_change_nothing(kind):
    x = fields()
    normalizer = kind()
    normalizer.fit(x)
    before = copy.deepcopy(normalizer.state_dict())
    broken = x.clone()
    broken[0, 2, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"1 values that are not finite, in channels \[2\]"):
        normalizer.partial_fit(broken)
    with pytest.raises(TypeError, match=r"real floating type, got torch[.]int64"):
        normalizer.partial_fit(x.long())
    with pytest.raises(ValueError, match=r"must be \(batch, channels"):
        normalizer.partial_fit(x[0, 0, 0])
    with pytest.raises(ValueError, match=r"shape \(3,\).*\(2,\)"):
        normalizer.partial_fit(x[:, :2])
    normalizer.partial_fit(x[:0])
    for name, value in normalizer.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("x", [torch.zeros(0, 1, 4), []])
def test_no_samples_are_an_error(x):
    with pytest.raises(ValueError, match="cannot be fitted to no samples"):
        GaussianNormalizer().fit(x)


def test_bad_arguments():
    with pytest.raises(ValueError, match="must hold the batch axis 0"):
        GaussianNormalizer((2, 3))
    with pytest.raises(ValueError, match="no negative axis"):
        GaussianNormalizer((0, -1))
    with pytest.raises(ValueError, match="`eps`"):
        GaussianNormalizer(eps=0.0)
    with pytest.raises(ValueError, match=r"`low` .* must be below `high`"):
        RangeNormalizer(1.0, 1.0)
    with pytest.raises(ValueError, match="name an axis that fields of 3 axes do not have"):
        GaussianNormalizer((0, 3)).fit(fields(shape=(5,)))
    with pytest.raises(ValueError, match="class and `dims` must agree"):
        GaussianNormalizer().merge(GaussianNormalizer("point"))


@pytest.mark.usefixtures("unchecked")
def test_unknown_dims_are_an_error():
    with pytest.raises(ValueError, match="'channel', 'point' or a sequence"):
        GaussianNormalizer("grid")


def test_identity_returns_its_argument_and_a_fingerprint():
    x = fields()
    normalizer = IdentityNormalizer()
    assert normalizer(x) is x
    assert normalizer.inverse(x) is x
    assert normalizer.fit(x) == fingerprint(x)


@pytest.mark.parametrize("kind", [*KINDS, IdentityNormalizer])
def test_gradients_pass(kind):
    x = fields(n=2, shape=(3,)).requires_grad_()
    normalizer = kind()
    normalizer.fit(x)
    assert isinstance(normalizer, Normalizer)
    assert torch.autograd.gradcheck(normalizer, x)
    assert torch.autograd.gradcheck(normalizer.inverse, x)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", KINDS)
def test_compiles_in_one_graph(kind):
    torch.compiler.reset()  # what other tests compiled of the same code counts towards the limit
    x = fields()
    normalizer = kind()
    normalizer.fit(x)
    torch.testing.assert_close(torch.compile(normalizer, fullgraph=True)(x), normalizer(x))


@pytest.mark.parametrize("kind", KINDS)
def test_half_a_batch_in_float32_agrees_with_float64(kind):
    normalizer = kind()
    normalizer.fit(fields(dtype=torch.float32))
    assert normalizer.to(torch.float32)(fields(dtype=torch.float32)).dtype == torch.float32
