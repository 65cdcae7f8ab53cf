"""The gradient's norm at every step of a run, at the cost of one norm a step and no waiting.

Norms stay on the device until they are asked for. The gradients must be the ones the loss has: after
`GradScaler.unscale_`, and before clipping, which would flatten what refinement is to see.

| training loop | use |
|---|---|
| no clipping | the hook, which reads `.grad` as `optimizer.step()` begins |
| `unscale_`, clip, `step` | `hook=False`, and `recorder.record()` between the first two |
| a closure, as Lightning has | `hook=False`, and `recorder.record()` in `on_before_optimizer_step` |

References:
    A. Defazio, A. Cutkosky, H. Mehta, K. Mishchenko, When, Why and How Much? Adaptive Learning Rate
    Scheduling by Refinement, 2023, arXiv:2310.07831.
"""

import warnings
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["GradientNormRecorder"]

CHUNK = 1024
"""Number of norms after which single numbers on the device are gathered in one tensor."""


class GradientNormRecorder:
    r"""Records the norm of the gradient of all parameters of an optimiser, step by step.

    Under data parallelism gradients are averages over all processes when the step begins, so that every
    process records the same norms. Sharded gradients (`DTensor`, as FSDP2 has) give the norm of the whole, at
    the cost of one all-reduce of a number for each record; all processes must record the same steps.

    Args:
        optimizer: Its parameters' gradients are recorded.
        p: 2 for the Euclidean norm, which refinement takes for SGD; 1 for the sum of magnitudes, for
            Adam-like optimisers.
        stride: Record every `stride`-th step; `norms` interpolates in between.
        hook: Record whenever `optimizer.step()` begins. With `False`, call `record` once for each step; do so
            where gradients are clipped, or computed in a closure.

    Raises:
        ValueError: Where `p` is not 1 or 2, or `stride < 1`.

    Examples:
        >>> weight = torch.tensor([3.0, 4.0], requires_grad=True)
        >>> optimizer = torch.optim.SGD([weight], lr=0.5)
        >>> recorder = GradientNormRecorder(optimizer)
        >>> for _ in range(3):
        ...     optimizer.zero_grad()
        ...     (0.5 * weight.square().sum()).backward()
        ...     optimizer.step()
        >>> recorder.norms()
        tensor([5.0000, 2.5000, 1.2500], dtype=torch.float64)
    """

    def __init__(self, optimizer: Optimizer, p: int = 2, stride: int = 1, *, hook: bool = True) -> None:
        if p not in {1, 2}:
            raise ValueError(f"`p` (={p}) must be 1 or 2")
        if stride < 1:
            raise ValueError(f"`stride` (={stride}) must lie in [1, inf)")
        self.optimizer = optimizer
        self.p = p
        self.stride = stride
        self.steps = 0
        self._recorded = torch.zeros(0, dtype=torch.float64)
        self._chunks: list[Tensor] = []
        self._pending: list[Tensor] = []
        self._hook = optimizer.register_step_pre_hook(self._before_step) if hook else None

    @torch.no_grad()
    def record(self) -> None:
        """Record the gradients as they are, as those of the next step.

        Raises:
            RuntimeError: Where the hook records by itself, and would count the step again.
        """
        if self._hook is not None:
            raise RuntimeError("the hook records at every step; pass hook=False to call `record` yourself")
        self._record()

    def flush(self) -> None:
        """Bring what was recorded to the host, which waits for the device once for all of it."""
        self._gather()
        if self._chunks:
            device = self._chunks[-1].device
            chunks = torch.cat([chunk.to(device, non_blocking=True) for chunk in self._chunks])
            self._recorded = torch.cat([self._recorded, chunks.to("cpu", torch.float64)])
            self._chunks = []

    def norms(self) -> Float[Tensor, " steps"]:
        """Return one norm for each step so far.

        Steps between two records are interpolated linearly, those after the last have its value. So are
        steps without any gradient, and those whose norm is not finite, which a `GradScaler` skips.

        Returns:
            The norms, float64, on the host.

        Raises:
            RuntimeError: Where nothing was recorded.

        Warns:
            UserWarning: Where norms were missing or not finite, how many.
        """
        self.flush()
        known = self._recorded.isfinite().nonzero()[:, 0]
        if not len(known):
            raise RuntimeError(f"no finite gradient norm was recorded in {self.steps} steps")
        missing = len(self._recorded) - len(known)
        if missing:
            warnings.warn(
                f"{missing} of {len(self._recorded)} gradient norms are missing or not finite; they are "
                f"interpolated",
                stacklevel=2,
            )
        return _interpolate(known * self.stride, self._recorded[known], self.steps)

    def remove(self) -> None:
        """Remove the hook; what was recorded stays."""
        if self._hook is not None:
            self._hook.remove()

    def state_dict(self) -> dict[str, Any]:
        """Return what was recorded, to go on from in a resumed run."""
        self.flush()
        return {"p": self.p, "stride": self.stride, "steps": self.steps, "recorded": self._recorded}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a recording, in place of what was recorded here.

        Args:
            state_dict: What `state_dict` returned.

        Raises:
            ValueError: Where it has another `p` or `stride`.
        """
        for name in ("p", "stride"):
            if state_dict[name] != getattr(self, name):
                raise ValueError(
                    f"`state_dict` was recorded with `{name}` (={state_dict[name]}), this recorder has "
                    f"{getattr(self, name)}"
                )
        self.steps = state_dict["steps"]
        self._recorded = state_dict["recorded"].to("cpu", torch.float64, copy=True)
        self._chunks, self._pending = [], []

    @torch.no_grad()
    def _before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record as a step begins."""
        if kwargs.get("closure") is not None or any(callable(arg) for arg in args):
            raise RuntimeError(
                f"{type(optimizer).__name__}.step was given a closure, which computes gradients after this "
                f"hook; pass hook=False and call `record` where they are ready and not yet clipped"
            )
        self._record()

    def _record(self) -> None:
        if self.steps % self.stride == 0:
            self._pending.append(self._total_norm())
            if len(self._pending) == CHUNK:
                self._gather()
        self.steps += 1

    def _gather(self) -> None:
        """Put single numbers into one tensor on their device."""
        if self._pending:
            device = self._pending[-1].device  # records differ where a step had no gradient
            self._chunks.append(torch.stack([norm.to(device, non_blocking=True) for norm in self._pending]))
            self._pending = []

    def _total_norm(self) -> Float[Tensor, ""]:
        """Return the norm of all gradients, NaN where there is none."""
        grads = [
            param.grad.coalesce().values() if param.grad.is_sparse else param.grad
            for group in self.optimizer.param_groups
            for param in group["params"]
            if param.grad is not None and param.grad.numel()
        ]
        if not grads:
            return torch.tensor(torch.nan)
        kinds: dict[tuple[Any, ...], list[Tensor]] = {}
        for grad in grads:
            kind = (grad.device, grad.dtype, getattr(grad, "device_mesh", None))
            kinds.setdefault(kind, []).append(grad)
        norms = [self._norm(batch) for batch in kinds.values()]
        total: Tensor = torch.linalg.vector_norm(
            torch.stack([norm.to(norms[0].device) for norm in norms]), self.p
        )
        # Fused optimisers get the scale from a GradScaler and unscale the gradients as they go.
        scale: Tensor | None = getattr(self.optimizer, "grad_scale", None)
        return total if scale is None else total / scale.to(total.device)

    def _norm(self, grads: list[Tensor]) -> Float[Tensor, ""]:
        """Return the norm of gradients of one device, dtype and mesh, in float32 or wider."""
        dtype = torch.float32 if grads[0].dtype in {torch.bfloat16, torch.float16} else None
        norm: Tensor = torch.linalg.vector_norm(
            torch.stack(torch._foreach_norm(grads, self.p, dtype=dtype)), self.p
        )
        if hasattr(norm, "full_tensor"):
            norm = norm.full_tensor()
        return norm


def _interpolate(
    at: Int[Tensor, " known"], values: Float[Tensor, " known"], steps: int
) -> Float[Tensor, " steps"]:
    """Return values at `0 .. steps - 1`, linear between known ones and constant outside."""
    if len(at) == 1:
        return values.repeat(steps)
    position = torch.arange(steps)
    right = torch.searchsorted(at, position).clamp(1, len(at) - 1)
    left = right - 1
    fraction = ((position - at[left]).to(values) / (at[right] - at[left])).clamp(0, 1)
    return torch.lerp(values[left], values[right], fraction)
