"""Buffers that keep float64 accuracy through every change of dtype.

Coupling coefficients, quadrature weights and projections are known to sixteen digits. A buffer that is cast
to float32 and back has lost half of them, so a module made here keeps each constant's float64 master and
casts anew from it whenever `.to`, `.double()` or `.cuda()` changes the buffer. Masters and buffers stay out
of the state dict: they follow from the constructor's arguments.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["ConstantModule"]


class ConstantModule(nn.Module):
    """A module with float64-accurate constants; subclasses call `register_constant` in their constructor.

    Examples:
        >>> import torch
        >>> class Scale(ConstantModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.register_constant("third", torch.tensor(1 / 3, dtype=torch.float64))
        >>> Scale().half().double().third.item() == 1 / 3
        True
    """

    def __init__(self) -> None:
        super().__init__()
        self._masters: dict[str, Tensor] = {}

    def register_constant(
        self,
        name: str,
        value: Tensor,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        """Register a non-persistent buffer that is recast from its float64 value.

        Args:
            name: The attribute under which the buffer is found.
            value: The constant, float64.
            dtype: Of the buffer at first; torch's default floating dtype where None.
            device: Of the buffer at first; the CPU where None.

        Raises:
            TypeError: Where the value is not float64.
        """
        if value.dtype != torch.float64:
            raise TypeError(f"`value` of constant {name!r} must be float64, got {value.dtype}")
        master = value.detach().to("cpu", copy=True).contiguous()
        self._masters[name] = master
        dtype = dtype or torch.get_default_dtype()
        self.register_buffer(name, master.to(dtype=dtype, device=device, copy=True), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ConstantModule":
        before = dict(self._constants())
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call] # torch leaves it without types
        for name, buffer in self._constants():
            # Also where neither dtype nor device changed: `to_empty` leaves what memory happened to hold.
            if buffer is not before[name]:
                master = self._masters[name]
                self._buffers[name] = master.to(dtype=buffer.dtype, device=buffer.device, copy=True)
        return self

    def _constants(self) -> list[tuple[str, Tensor]]:
        """Return the names and buffers of the constants."""
        return [(name, self.get_buffer(name)) for name in self._masters]
