"""Normalisers of fields: statistics fitted once, in a stream or in pieces, and kept in buffers.

A network trains best on fields of mean zero and spread one; a normaliser brings them there and its
`inverse` brings predictions back to physical units. Statistics are computed in float64 by merging those of
parts (Chan, Golub and LeVeque), so that data larger than memory, or spread over workers, give the figures of
one pass. They are buffers: they are saved with the model, and load into a freshly built one.

Fit on training data only: `fit` returns the fingerprint of what it saw, to be compared with that of test
data.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from lemmata.operators.data import digest_sum, finish_fingerprint

__all__ = ["GaussianNormalizer", "IdentityNormalizer", "Normalizer", "RangeNormalizer"]

Dims = Literal["channel", "point"] | Sequence[int]


class Normalizer(nn.Module, ABC):
    """What normalisers share: fitting in parts, merging, fingerprints, and `(x - shift) / scale`.

    Args:
        dims: Axes of `(batch, channels, *grid)` that statistics are taken over: `"channel"` is all but
            the channels, one figure a channel on any grid; `"point"` is the batch alone, one figure a
            channel and point, which ties the normaliser to one grid; or the axes themselves, the batch (0)
            among them.
        eps: Smallest spread, as a fraction of the field's magnitude; a channel of less counts as constant.

    Raises:
        ValueError: Where `dims` or `eps` does not fit.
    """

    samples: Tensor
    digest: Tensor
    _statistics: tuple[str, ...] = ()

    def __init__(self, dims: Dims, eps: float) -> None:
        super().__init__()
        if isinstance(dims, str):
            if dims not in {"channel", "point"}:
                raise ValueError(f"`dims` (={dims!r}) must be 'channel', 'point' or a sequence of axes")
            self.dims: Dims = dims
        else:
            axes = tuple(sorted(set(dims)))
            if 0 not in axes or axes[0] < 0:
                raise ValueError(f"`dims` (={tuple(dims)}) must hold the batch axis 0 and no negative axis")
            self.dims = axes
        if not 0 < eps < 1:
            raise ValueError(f"`eps` (={eps}) must lie between 0 and 1")
        self.eps = eps
        self.register_buffer("samples", torch.zeros((), dtype=torch.int64))
        self.register_buffer("digest", torch.zeros(32, dtype=torch.uint8))

    @property
    def fingerprint(self) -> str:
        """The `fingerprint` of the samples seen."""
        return finish_fingerprint(int(self.samples), self._digests())

    def fit(self, x: Shaped[Tensor, "..."] | Iterable[Tensor]) -> str:
        """Forget what was seen, and fit.

        Args:
            x: Fields `(n, channels, *grid)`, or an iterable of such batches.

        Returns:
            The fingerprint of the data, whatever their order and batching.

        Raises:
            ValueError: Where there are no samples, shapes disagree, or values are not finite.
            TypeError: Where fields are not real.

        Warns:
            UserWarning: Where a channel is constant; names it.
        """
        self.reset()
        for batch in _pieces(x) if isinstance(x, Tensor) else x:
            self.partial_fit(batch)
        if int(self.samples) == 0:
            raise ValueError(f"{type(self).__name__} cannot be fitted to no samples")
        constant = self.constant_channels()
        if constant:
            warnings.warn(
                f"channels {constant} are constant; `eps` (={self.eps:g}) of their size is their spread",
                stacklevel=2,
            )
        return self.fingerprint

    def partial_fit(self, x: Shaped[Tensor, "..."]) -> str:
        """Fit to more samples. Nothing changes where they are bad, or none.

        Args:
            x: Fields `(n, channels, *grid)`.

        Returns:
            The fingerprint of all samples so far.

        Raises:
            ValueError: Where shapes disagree with what was seen, or values are not finite.
            TypeError: Where fields are not real.
        """
        _check_fields(x)
        if len(x) > 0:
            self._check_finite(x)
            fresh = self._statistics_of(x.detach())
            digests = digest_sum(x)
            self._combine(fresh, len(x), digests)
        return self.fingerprint

    def merge(self, other: "Normalizer") -> "Normalizer":
        """Take in what another normaliser saw, as if both streams had been one.

        Args:
            other: A normaliser of the same class and `dims`; it is left as it is.

        Returns:
            This normaliser.

        Raises:
            ValueError: Where classes, `dims` or shapes differ.
        """
        if type(other) is not type(self) or other.dims != self.dims:
            raise ValueError(f"cannot merge {other!r} into {self!r}: class and `dims` must agree")
        if int(other.samples) > 0:
            fresh = {name: getattr(other, name) for name in self._statistics}
            self._combine(fresh, int(other.samples), other._digests())
        return self

    def reset(self) -> None:
        """Forget what was seen."""
        self.samples.zero_()
        self.digest.zero_()
        for name in self._statistics:
            setattr(self, name, getattr(self, name).new_empty(0))

    @abstractmethod
    def constant_channels(self) -> list[int]:
        """Return the channels that hold one value wherever statistics were taken.

        Returns:
            Their indices; a point of a channel counts for the channel only where all its points are constant.
        """

    def forward(self, x: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Normalise fields.

        Args:
            x: Fields `(batch, channels, *grid)`.

        Returns:
            Normalised fields of the same shape and type.

        Raises:
            RuntimeError: Where the normaliser is not fitted.
            ValueError: Where the channels, or for point statistics the grid, are not those it was fitted to.
            TypeError: Where fields are not real.
        """
        shift, scale = self._affine(x)
        return (x - shift) / scale

    def inverse(self, x: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Bring normalised fields back to physical units.

        Args:
            x: Normalised fields `(batch, channels, *grid)`.

        Returns:
            Fields of the same shape and type.

        Raises:
            RuntimeError: Where the normaliser is not fitted.
            ValueError: Where the channels, or for point statistics the grid, are not those it was fitted to.
            TypeError: Where fields are not real.
        """
        shift, scale = self._affine(x)
        return x * scale + shift

    def extra_repr(self) -> str:
        """Return what `repr` shows between the brackets."""
        return f"dims={self.dims!r}, eps={self.eps:g}, samples={int(self.samples)}"

    @abstractmethod
    def _statistics_of(self, x: Tensor) -> dict[str, Tensor]:
        """Return the statistics of fields, by name."""

    @abstractmethod
    def _merged(self, fresh: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return this normaliser's statistics merged with others."""

    @abstractmethod
    def _shift_and_scale(self) -> tuple[Tensor, Tensor]:
        """Return shift and scale in the shape of the statistics."""

    def _combine(self, fresh: Mapping[str, Tensor], samples: int, digests: int) -> None:
        """Merge statistics, a number of samples and the sum of their digests into the buffers."""
        fresh = {name: value.to(self.samples.device) for name, value in fresh.items()}
        if int(self.samples) > 0:
            for name, value in fresh.items():
                if value.shape != getattr(self, name).shape:
                    seen, got = tuple(getattr(self, name).shape), tuple(value.shape)
                    raise ValueError(f"statistics so far have shape {seen}, those of the new fields {got}")
            fresh = self._merged(fresh)
        total = (self._digests() + digests) % 2**256
        for name, value in fresh.items():
            setattr(self, name, value.clone())
        self.samples += samples
        self.digest.copy_(torch.frombuffer(bytearray(total.to_bytes(32, "big")), dtype=torch.uint8))

    def _digests(self) -> int:
        """Return the sum of digests that the buffer holds."""
        return int.from_bytes(bytes(self.digest.tolist()), "big")

    def _reduced(self, ndim: int) -> tuple[int, ...]:
        """Return the axes that statistics of fields with `ndim` axes are taken over."""
        if self.dims == "channel":
            return (0, *range(2, ndim))
        if self.dims == "point":
            return (0,)
        axes = tuple(int(axis) for axis in self.dims)
        if axes[-1] >= ndim:
            raise ValueError(f"`dims` (={axes}) name an axis that fields of {ndim} axes do not have")
        return axes

    def _kept(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of the statistics of fields of a shape."""
        if self.dims == "channel":
            return (shape[1],)
        reduced = self._reduced(len(shape))
        return tuple(1 if axis in reduced else n for axis, n in enumerate(shape))[1:]

    def _affine(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return shift and scale that broadcast against fields, after checking them."""
        _check_fields(x)
        shift, scale = self._shift_and_scale()
        if shift.numel() == 0:
            raise RuntimeError(f"{type(self).__name__} is not fitted; call `fit` or load a state dict first")
        expected = self._kept(x.shape)
        if shift.shape != expected:
            raise ValueError(self._mismatch(tuple(shift.shape), tuple(x.shape)))
        view = (*expected, *(1 for _ in x.shape[len(expected) + 1 :]))
        return shift.reshape(view).to(x), scale.reshape(view).to(x)

    def _mismatch(self, fitted: tuple[int, ...], got: tuple[int, ...]) -> str:
        """Return what to say of fields that the statistics do not fit."""
        if fitted[0] != got[1] and 1 not in self._reduced(len(got)):
            return f"expected {fitted[0]} channels, got {got[1]} in fields of shape {got}"
        return (
            f"statistics of shape {fitted[1:]} belong to the grid they were fitted on, got a grid {got[2:]}; "
            "`dims` 'channel' fits every grid"
        )

    def _check_finite(self, x: Tensor) -> None:
        """Raise `ValueError` where values are not finite, naming the channels."""
        finite = x.isfinite()
        if not bool(finite.all()):
            bad = (~finite).movedim(1, 0).flatten(1).sum(1)
            channels = bad.nonzero().flatten().tolist()
            raise ValueError(f"`x` has {int(bad.sum())} values that are not finite, in channels {channels}")

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # Statistics have the shape of the data they came from, which a freshly built module cannot know.
        for name in self._statistics:
            saved = state_dict.get(prefix + name)
            if isinstance(saved, Tensor):
                setattr(self, name, getattr(self, name).new_empty(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class GaussianNormalizer(Normalizer):
    """Bring fields to mean zero and standard deviation one.

    `forward` is `(x - mean) / std` with the standard deviation of the population.

    Args:
        dims: `"channel"`, `"point"`, or axes of `(batch, channels, *grid)`; see `Normalizer`.
        eps: Smallest standard deviation, as a fraction of the mean; a field of zeros takes it as it is.

    Raises:
        ValueError: Where `dims` or `eps` does not fit.

    Examples:
        >>> normalizer = GaussianNormalizer()
        >>> _ = normalizer.fit(torch.tensor([[[1.0, 1.0]], [[5.0, 5.0]]]))
        >>> normalizer(torch.tensor([[[3.0, 7.0]]]))
        tensor([[[0., 2.]]])

    References:
        T. F. Chan, G. H. Golub and R. J. LeVeque, Updating Formulae and a Pairwise Algorithm for Computing
        Sample Variances, 1979.
    """

    count: Tensor
    mean: Tensor
    m2: Tensor
    _statistics = ("count", "mean", "m2")

    def __init__(self, dims: Dims = "channel", eps: float = 1e-9) -> None:
        super().__init__(dims, eps)
        self.register_buffer("count", torch.empty(0, dtype=torch.int64))
        self.register_buffer("mean", torch.empty(0, dtype=torch.float64))
        self.register_buffer("m2", torch.empty(0, dtype=torch.float64))

    @property
    def std(self) -> Float[Tensor, "..."]:
        """The standard deviation in the shape of the statistics, zero where a field is constant."""
        return (self.m2 / self.count).sqrt()

    def constant_channels(self) -> list[int]:
        """Return the channels whose spread is zero to rounding."""
        return _channels(self.std <= self.eps * self.mean.abs())

    def _statistics_of(self, x: Tensor) -> dict[str, Tensor]:
        axes, kept = self._reduced(x.ndim), self._kept(x.shape)
        values = x.double()
        mean = values.mean(axes, keepdim=True)
        m2 = (values - mean).square().sum(axes)
        count = torch.full((), values.numel() // mean.numel(), dtype=torch.int64, device=x.device)
        return {"count": count, "mean": mean.reshape(kept), "m2": m2.reshape(kept)}

    def _merged(self, fresh: Mapping[str, Tensor]) -> dict[str, Tensor]:
        # Chan et al.: the squares about the common mean are those about each mean plus those of the means.
        count = self.count + fresh["count"]
        delta = fresh["mean"].double() - self.mean.double()
        share = fresh["count"].double() / count
        mean = self.mean.double() + delta * share
        m2 = self.m2.double() + fresh["m2"].double() + delta.square() * self.count * share
        return {"count": count, "mean": mean, "m2": m2}

    def _shift_and_scale(self) -> tuple[Tensor, Tensor]:
        return self.mean, _spread(self.std, self.mean.abs(), self.eps)


class RangeNormalizer(Normalizer):
    """Bring fields to the range from `low` to `high`, by their smallest and largest values.

    Args:
        low: What the smallest value becomes.
        high: What the largest value becomes.
        dims: `"channel"`, `"point"`, or axes of `(batch, channels, *grid)`; see `Normalizer`.
        eps: Smallest range, as a fraction of the magnitude; a field of zeros takes it as it is.

    Raises:
        ValueError: Where `low` is not below `high`, or `dims` or `eps` does not fit.

    Examples:
        >>> normalizer = RangeNormalizer(-1.0, 1.0)
        >>> _ = normalizer.fit(torch.tensor([[[2.0, 6.0]]]))
        >>> normalizer(torch.tensor([[[2.0, 5.0, 6.0]]]))
        tensor([[[-1.0000,  0.5000,  1.0000]]])
    """

    minimum: Tensor
    maximum: Tensor
    _statistics = ("minimum", "maximum")

    def __init__(
        self, low: float = 0.0, high: float = 1.0, dims: Dims = "channel", eps: float = 1e-9
    ) -> None:
        super().__init__(dims, eps)
        if not low < high:
            raise ValueError(f"`low` (={low}) must be below `high` (={high})")
        self.low = low
        self.high = high
        self.register_buffer("minimum", torch.empty(0, dtype=torch.float64))
        self.register_buffer("maximum", torch.empty(0, dtype=torch.float64))

    def constant_channels(self) -> list[int]:
        """Return the channels whose range is zero to rounding."""
        return _channels(self.maximum - self.minimum <= self.eps * self._magnitude())

    def extra_repr(self) -> str:
        """Return what `repr` shows between the brackets."""
        return f"low={self.low:g}, high={self.high:g}, {super().extra_repr()}"

    def _magnitude(self) -> Tensor:
        return torch.maximum(self.minimum.abs(), self.maximum.abs())

    def _statistics_of(self, x: Tensor) -> dict[str, Tensor]:
        axes, kept = self._reduced(x.ndim), self._kept(x.shape)
        minimum, maximum = x.amin(axes), x.amax(axes)
        return {"minimum": minimum.double().reshape(kept), "maximum": maximum.double().reshape(kept)}

    def _merged(self, fresh: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            "minimum": torch.minimum(self.minimum.double(), fresh["minimum"].double()),
            "maximum": torch.maximum(self.maximum.double(), fresh["maximum"].double()),
        }

    def _shift_and_scale(self) -> tuple[Tensor, Tensor]:
        scale = _spread(self.maximum - self.minimum, self._magnitude(), self.eps) / (self.high - self.low)
        return self.minimum - self.low * scale, scale


class IdentityNormalizer(Normalizer):
    """Leave fields as they are; stands where a normaliser is expected, and fingerprints what it is fitted to.

    Examples:
        >>> normalizer = IdentityNormalizer()
        >>> fingerprint = normalizer.fit(torch.ones(2, 1, 4))
        >>> bool((normalizer(torch.ones(2, 1, 4)) == 1).all())
        True
    """

    def __init__(self) -> None:
        super().__init__("channel", eps=0.5)

    def constant_channels(self) -> list[int]:
        """Return no channel: nothing is divided by a spread."""
        return []

    def forward(self, x: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """Return fields as they are.

        Args:
            x: Fields.

        Returns:
            The same tensor.
        """
        return x

    def inverse(self, x: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """Return fields as they are.

        Args:
            x: Fields.

        Returns:
            The same tensor.
        """
        return x

    def extra_repr(self) -> str:
        """Return what `repr` shows between the brackets."""
        return f"samples={int(self.samples)}"

    def _statistics_of(self, x: Tensor) -> dict[str, Tensor]:  # noqa: ARG002 - there are none
        return {}

    def _merged(self, fresh: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(fresh)

    def _shift_and_scale(self) -> tuple[Tensor, Tensor]:
        return torch.zeros(1), torch.ones(1)


def _check_fields(x: Tensor) -> None:
    """Raise unless `x` may be a batch of fields."""
    if not x.is_floating_point():
        raise TypeError(f"`x` must be of a real floating type, got {x.dtype}; cast it, say by `.float()`")
    if x.ndim < 2 or 0 in x.shape[1:]:
        got = f"got shape {tuple(x.shape)}"
        raise ValueError(f"`x` must be (batch, channels, *grid) with no axis empty but the batch, {got}")


def _pieces(x: Tensor) -> Sequence[Tensor]:
    """Return samples in pieces small enough for a float64 copy of each."""
    per_sample = max(1, x[:1].numel())
    return torch.split(x, max(1, 2**22 // per_sample))


def _spread(spread: Tensor, magnitude: Tensor, eps: float) -> Tensor:
    """Return a spread to divide by: at least `eps` of the magnitude, and `eps` where that is zero."""
    return torch.maximum(spread, eps * torch.where(magnitude == 0, 1.0, magnitude))


def _channels(constant: Tensor) -> list[int]:
    """Return the channels that are constant at all their points."""
    return constant.reshape(len(constant), -1).all(1).nonzero().flatten().tolist() if constant.numel() else []
