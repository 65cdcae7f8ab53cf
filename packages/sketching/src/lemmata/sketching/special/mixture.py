"""Mixtures of von Mises-Fisher distributions: clusters of directions, fitted by expectation maximisation.

For data whose length carries no information: text and image embeddings, normalised expression profiles,
orientations.

Legend: n rows, k components, p dimension.

References:
    A. Banerjee, I. S. Dhillon, J. Ghosh and S. Sra, "Clustering on the unit hypersphere using von
    Mises-Fisher distributions", 2005.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lemmata.sketching.special.von_mises_fisher import VonMisesFisher, concentration_from_length

__all__ = ["VMFMixture"]

_LONGEST = 1 - 1e-12


class VMFMixture:
    """A mixture of von Mises-Fisher distributions.

    Args:
        components: How many.
        steps: The most steps of expectation maximisation.
        tolerance: Stop where the mean log-likelihood gains less than this, in nats a row.

    Raises:
        ValueError: Where a number is out of its range.

    Examples:
        >>> generator = torch.Generator().manual_seed(0)
        >>> sphere = VonMisesFisher(torch.eye(16)[:2], torch.tensor([60.0, 90.0]))
        >>> x = sphere.rsample((100,), generator=generator).reshape(-1, 16)
        >>> mixture = VMFMixture(2).fit(x, generator=generator)
        >>> labels = mixture.predict(x).reshape(100, 2)
        >>> bool((labels == labels[0]).all()), bool(labels[0, 0] != labels[0, 1])
        (True, True)
    """

    loc: Float[Tensor, "k p"]
    concentration: Float[Tensor, " k"]
    weights: Float[Tensor, " k"]
    loglik: list[float]

    def __init__(self, components: int, *, steps: int = 200, tolerance: float = 1e-6) -> None:
        if components < 1:
            raise ValueError(f"`components` (={components}) must be a positive integer")
        if steps < 1:
            raise ValueError(f"`steps` (={steps}) must be a positive integer")
        if not tolerance >= 0:
            raise ValueError(f"`tolerance` (={tolerance}) must not be negative")
        self.components, self.steps, self.tolerance = components, steps, tolerance

    def fit(self, x: Float[Tensor, "n p"], *, generator: torch.Generator | None = None) -> "VMFMixture":
        """Fit to unit vectors.

        Starts from rows far from one another, drawn as k-means++ does. `loglik` keeps the mean
        log-likelihood of each step, which never falls.

        Args:
            x: Unit vectors, one a row.
            generator: Draws the start.

        Returns:
            The mixture itself.

        Raises:
            ValueError: Where there are fewer rows than components.
        """
        if x.shape[0] < self.components:
            raise ValueError(f"`x` must have at least {self.components} rows, got {x.shape[0]}")
        self.loc = self._start(x, generator)
        self.concentration = x.new_full((self.components,), float(x.shape[1]))
        self.weights = x.new_full((self.components,), 1 / self.components)
        self.loglik = []
        for _ in range(self.steps):
            joint = self._joint(x)
            total = torch.logsumexp(joint, -1)
            self.loglik.append(float(total.mean()))
            if len(self.loglik) > 1 and self.loglik[-1] - self.loglik[-2] < self.tolerance:
                break
            self._maximize(x, (joint - total[:, None]).exp())
        return self

    def log_prob(self, x: Float[Tensor, "n p"]) -> Float[Tensor, " n"]:
        """Return the logarithm of the mixture's density at unit vectors."""
        return torch.logsumexp(self._joint(x), -1)

    def responsibilities(self, x: Float[Tensor, "n p"]) -> Float[Tensor, "n k"]:
        """Return the probability of each component given each row."""
        return torch.softmax(self._joint(x), -1)

    def predict(self, x: Float[Tensor, "n p"]) -> Int[Tensor, " n"]:
        """Return the most probable component of each row."""
        return self._joint(x).argmax(-1)

    def _joint(self, x: Tensor) -> Tensor:
        components = VonMisesFisher(self.loc, self.concentration, validate_args=False)
        return (
            components._log_normalizer() + x @ (self.concentration[:, None] * self.loc).T + self.weights.log()
        )

    def _maximize(self, x: Tensor, share_NK: Tensor) -> None:
        """Set the parameters to the weighted maximum likelihood; an empty component keeps its own."""
        mass = share_NK.sum(0)
        sums = share_NK.T @ x
        length = sums.norm(dim=-1)
        full = (mass > 0) & (length > 0)
        self.loc = torch.where(full[:, None], sums / length.clamp(min=1e-300)[:, None], self.loc)
        mean = (length.double() / mass.double().clamp(min=1e-300)).clamp(1e-12, _LONGEST)
        concentration, _ = concentration_from_length(mean, x.shape[1])
        self.concentration = torch.where(full, concentration.to(x.dtype), self.concentration)
        self.weights = mass / mass.sum()

    def _start(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        first = torch.randint(x.shape[0], (1,), generator=generator, device=x.device)
        chosen = x[first]
        while chosen.shape[0] < self.components:
            # One minus the largest cosine is half of the smallest squared distance.
            distance = (1 - (x @ chosen.T).amax(-1)).clamp(min=0) + torch.finfo(x.dtype).tiny
            following = torch.multinomial(distance, 1, generator=generator)
            chosen = torch.cat([chosen, x[following]])
        return chosen
