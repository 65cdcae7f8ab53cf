"""A fitted linear model: coefficients, what they mean, how sure they are; saved, loaded and applied."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lemmata.apps.regression_at_scale.engine.checkpoint import load_plain, save_plain

__all__ = ["Loss", "RegressionModel"]

_FORMAT = "lemmata.regression-at-scale.model/1"


@dataclass(frozen=True)
class Loss:
    """What a fit minimises over the residuals.

    Args:
        kind: `"l2"`, `"l1"`, `"lp"` or `"huber"`.
        p: The power of an l_p loss (2 and 1 for `"l2"` and `"l1"`, else None).
        delta: Where Huber's loss turns from square to absolute, in units of the target; None to take it from
            the residuals.
    """

    kind: str
    p: float | None = None
    delta: float | None = None

    @classmethod
    def parse(cls, text: str) -> "Loss":
        """Read `l2`, `l1`, `lp:P`, `huber` or `huber:DELTA`.

        Args:
            text: What the user wrote.

        Returns:
            The loss.

        Raises:
            ValueError: Where it is none of these.

        Examples:
            >>> Loss.parse("lp:1.5")
            Loss(kind='lp', p=1.5, delta=None)
        """
        kind, colon, number = text.partition(":")
        value = _number(number)
        if kind == "l2" and not colon:
            return cls("l2", p=2.0)
        if kind == "l1" and not colon:
            return cls("l1", p=1.0)
        if kind == "lp" and value is not None and 1 <= value < float("inf"):
            return {1.0: cls("l1", p=1.0), 2.0: cls("l2", p=2.0)}.get(value, cls("lp", p=value))
        if kind == "huber" and (not colon or (value is not None and 0 < value < float("inf"))):
            return cls("huber", delta=value)
        raise ValueError(
            f"`loss` (={text!r}) must be 'l2', 'l1', 'lp:P' with 1 <= P < inf, 'huber' or 'huber:DELTA' "
            "with 0 < DELTA < inf"
        )

    def __str__(self) -> str:
        if self.kind == "lp":
            return f"lp:{self.p!r}"
        if self.kind == "huber" and self.delta is not None:
            return f"huber:{self.delta!r}"
        return self.kind


@dataclass(frozen=True)
class RegressionModel:
    """A fitted linear model.

    Args:
        coefficients: One column a target, in units of target per feature, shape (d, c), float64.
        feature_names: Names of the d encoded features; `"(intercept)"` comes last where there is one.
        target_names: Names of the c targets.
        encoder: State of the encoder that turns a table's columns into features.
        loss: What was minimised, as `Loss` writes it.
        ridge: Weight of the penalty.
        residual_scale: Standard deviation of the residuals, shape (c,); None where the loss has none.
        covariance_factor: Matrix T, shape (d, r), with the covariance of the coefficients of a target
            `residual_scale**2 * T @ T.T`; None likewise.
    """

    coefficients: Float[Tensor, "d c"]
    feature_names: tuple[str, ...]
    target_names: tuple[str, ...]
    encoder: Mapping[str, Any] = field(default_factory=dict)
    loss: str = "l2"
    ridge: float = 0.0
    residual_scale: Float[Tensor, " c"] | None = None
    covariance_factor: Float[Tensor, "d r"] | None = None

    @property
    def standard_errors(self) -> Float[Tensor, "d c"] | None:
        """Standard errors of the coefficients; None where the loss has none."""
        if self.covariance_factor is None or self.residual_scale is None:
            return None
        lengths: Tensor = torch.linalg.vector_norm(self.covariance_factor, dim=1)
        return lengths[:, None] * self.residual_scale

    def predict(self, x: Tensor) -> Float[Tensor, "n c"]:
        """Return predictions for encoded rows.

        Args:
            x: Features as the encoder makes them, shape (n, d).

        Returns:
            Predictions in units of the targets, shape (n, c), float64.

        Raises:
            ValueError: Where `x` has another number of features.
        """
        if x.ndim != 2 or x.shape[1] != len(self.feature_names):
            raise ValueError(
                f"`x` has shape {tuple(x.shape)}, expected (n, {len(self.feature_names)}), "
                "one column for each of the model's features"
            )
        return x.to(torch.float64) @ self.coefficients

    def predict_errors(
        self, x: Tensor
    ) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n c"], Float[Tensor, "n c"]]:
        """Return predictions, the standard errors of their means, and those of a new observation.

        Args:
            x: Features as the encoder makes them, shape (n, d).

        Returns:
            Prediction, standard error of the mean, standard error of a new observation, each of shape (n, c).

        Raises:
            ValueError: Where the model has no standard errors, or `x` another number of features.
        """
        mean = self.predict(x)
        if self.covariance_factor is None or self.residual_scale is None:
            raise ValueError(f"a model fitted with loss {self.loss} has no standard errors")
        leverage = (x.to(torch.float64) @ self.covariance_factor).square().sum(1, keepdim=True)
        return (
            mean,
            leverage.sqrt() * self.residual_scale,
            (1 + leverage).sqrt() * self.residual_scale,
        )

    def save(self, path: Path | str) -> None:
        """Write the model, atomically; the same model gives the same bytes.

        Args:
            path: The file, by custom `model.pt`.
        """
        save_plain(
            Path(path),
            {
                "format": _FORMAT,
                "coefficients": self.coefficients.contiguous().clone(),
                "feature_names": list(self.feature_names),
                "target_names": list(self.target_names),
                "encoder": dict(self.encoder),
                "loss": self.loss,
                "ridge": self.ridge,
                "residual_scale": _owned(self.residual_scale),
                "covariance_factor": _owned(self.covariance_factor),
            },
        )

    @classmethod
    def load(cls, path: Path | str) -> "RegressionModel":
        """Read a model; nothing in the file is run.

        Args:
            path: A file that `save` wrote, or the folder of a run.

        Returns:
            The model.

        Raises:
            FileNotFoundError: Where there is no such file.
            ValueError: Where the file is broken or not a model; the message names it.
        """
        path = Path(path)
        path = path / "model.pt" if path.is_dir() else path
        saved = load_plain(path)
        if not isinstance(saved, dict) or saved.get("format") != _FORMAT:
            raise ValueError(f"{path} is not a model of regression-at-scale")
        values = {name: value for name, value in saved.items() if name != "format"}
        values["feature_names"] = tuple(values["feature_names"])
        values["target_names"] = tuple(values["target_names"])
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(
                f"{path} is a model of another version of regression-at-scale: {error}"
            ) from error


def _owned(value: Tensor | None) -> Tensor | None:
    """Return a tensor that owns exactly its memory, so that no more than it is saved."""
    return None if value is None else value.contiguous().clone()


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
