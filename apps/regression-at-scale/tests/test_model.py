from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmata.apps.regression_at_scale.model import Loss, RegressionModel


def model(d=4, c=2, **changes):
    g = torch.Generator().manual_seed(0)
    values = {
        "coefficients": torch.randn(d, c, dtype=torch.float64, generator=g),
        "feature_names": tuple(f"größe {i}" for i in range(d)),
        "target_names": tuple(f"y{i}" for i in range(c)),
        "encoder": {"levels": {"city": ["Köln", "Bonn"]}, "intercept": True, "means": [1.5]},
        "ridge": 0.5,
        "residual_scale": torch.arange(1, c + 1).double(),
        "covariance_factor": torch.randn(d, d, dtype=torch.float64, generator=g),
    }
    return RegressionModel(**{**values, **changes})


def test_round_trip(tmp_path: Path):
    one = model()
    one.save(tmp_path / "model.pt")
    two = RegressionModel.load(tmp_path / "model.pt")
    assert (two.feature_names, two.target_names, two.encoder) == (
        one.feature_names,
        one.target_names,
        one.encoder,
    )
    for name in ("coefficients", "residual_scale", "covariance_factor", "standard_errors"):
        assert torch.equal(getattr(one, name), getattr(two, name))
    assert (two.loss, two.ridge) == ("l2", 0.5)
    assert torch.equal(RegressionModel.load(tmp_path).coefficients, one.coefficients)


def test_a_model_without_uncertainty(tmp_path: Path):
    model(loss="l1", residual_scale=None, covariance_factor=None).save(tmp_path / "model.pt")
    found = RegressionModel.load(tmp_path)
    assert found.standard_errors is None
    with pytest.raises(ValueError, match="loss l1 has no standard errors"):
        found.predict_errors(torch.ones(2, 4))


def test_the_same_model_has_the_same_bytes_wherever_it_lies(tmp_path: Path):
    model().save(tmp_path / "a.pt")
    large = torch.randn(100, 2, dtype=torch.float64)
    part = large[:4].copy_(model().coefficients)  # a view of larger memory saves no more than itself
    model(coefficients=part).save(tmp_path / "other" / "model.pt")
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "other" / "model.pt").read_bytes()
    assert (tmp_path / "a.pt").stat().st_size < 5000


def test_predictions_and_their_errors():
    fitted = model()
    x = torch.randn(7, 4)
    mean, error_of_mean, error = fitted.predict_errors(x)
    assert torch.equal(mean, fitted.predict(x))
    expected = x.double().numpy() @ fitted.coefficients.numpy()
    np.testing.assert_allclose(mean.numpy(), expected, rtol=1e-12)
    covariance = fitted.covariance_factor @ fitted.covariance_factor.T
    for row in range(7):
        spread = float(x[row].double() @ covariance @ x[row].double())
        for target in range(2):
            scale = float(fitted.residual_scale[target])
            assert float(error_of_mean[row, target]) == pytest.approx(scale * spread**0.5)
            assert float(error[row, target]) == pytest.approx(scale * (1 + spread) ** 0.5)


@pytest.mark.parametrize("shape", [(3, 5), (4,), (2, 3, 4)])
def test_another_number_of_features_is_refused(shape):
    with pytest.raises(ValueError, match=r"`x` has shape .*expected \(n, 4\)"):
        model().predict(torch.ones(shape))


def test_files_that_are_no_models_are_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"model\.pt"):
        RegressionModel.load(tmp_path)
    path = tmp_path / "model.pt"
    torch.save({"format": "another"}, path)
    with pytest.raises(ValueError, match=r"model\.pt is not a model"):
        RegressionModel.load(path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match=r"model\.pt is not a model"):
        RegressionModel.load(path)
    model().save(path)
    whole = path.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"model\.pt cannot be read"):
            RegressionModel.load(path)


def test_a_model_of_another_version_is_named(tmp_path: Path):
    path = tmp_path / "model.pt"
    model().save(path)
    saved = torch.load(path, weights_only=True)
    torch.save({**saved, "novelty": 1}, path)
    with pytest.raises(ValueError, match=r"model\.pt is a model of another version"):
        RegressionModel.load(path)
    del saved["coefficients"]
    torch.save(saved, path)
    with pytest.raises(ValueError, match=r"model\.pt is a model of another version"):
        RegressionModel.load(path)


@pytest.mark.parametrize(
    ("text", "loss"),
    [
        ("l2", Loss("l2", 2.0)),
        ("l1", Loss("l1", 1.0)),
        ("lp:1", Loss("l1", 1.0)),
        ("lp:2", Loss("l2", 2.0)),
        ("lp:1.5", Loss("lp", 1.5)),
        ("huber", Loss("huber")),
        ("huber:0.5", Loss("huber", delta=0.5)),
    ],
)
def test_losses(text, loss):
    assert Loss.parse(text) == loss
    assert Loss.parse(str(loss)) == loss


@pytest.mark.parametrize(
    "text",
    ["", "l3", "lp", "lp:", "lp:0.5", "lp:inf", "lp:nan", "lp:x", "huber:", "huber:0", "huber:-1", "l2:2"],
)
def test_unknown_losses_are_refused(text):
    with pytest.raises(ValueError, match="`loss` "):
        Loss.parse(text)


@settings(deadline=None, max_examples=50)
@given(st.floats(1, 1e6, exclude_min=True))
def test_a_loss_reads_what_it_writes(p):
    assert Loss.parse(str(Loss.parse(f"lp:{p!r}"))) == Loss.parse(f"lp:{p!r}")
