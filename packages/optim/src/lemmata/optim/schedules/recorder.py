"""Recorder."""

from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["GradientNormRecorder"]


class GradientNormRecorder:
    """Records the norm of the gradient at every step of an optimiser."""

    def __init__(
        self, optimizer: Optimizer, p: Literal[1, 2] = 2, stride: int = 1, *, hook: bool = True
    ) -> None:
        raise NotImplementedError

    def record(self) -> None:
        """Record the gradients as they are now."""

    def flush(self) -> None:
        """Move what was recorded to the host."""

    def norms(self) -> Float[Tensor, " steps"]:
        """Return one norm a step."""
        raise NotImplementedError

    def remove(self) -> None:
        """Detach from the optimiser."""

    def state_dict(self) -> dict[str, Any]:
        """Return what was recorded."""
        raise NotImplementedError

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a recording."""
