r"""A mixture of experts that drops no token, and SwiGLU, which is both an expert and the dense alternative.

Every token passes the shared experts and the `active` routed ones with the highest scores:

$$y = \sum_{j \le s} E^{shared}_j(x) + \sum_{e \in T(x)} g_e(x) E_e(x), \qquad
T(x) = \operatorname{top}_k (s_e(x) + b_e), \quad g_e = s_e / \sum_{e' \in T} s_{e'},$$

with scores $s = \sigma(W_r x)$ or $\mathrm{softmax}(W_r x)$. Use it for many parameters at the cost of few.
Loads are kept even by the bias $b$, which takes part in the choice only and moves after each step,
$b_e \leftarrow b_e + u \, \mathrm{sign}(\bar n - n_e)$ with the loads $n$; or by the auxiliary loss
$\alpha E \sum_e f_e P_e$ with the fraction $f_e$ of choices that fell on an expert and its mean normalised
score $P_e$.

Tokens are sorted by expert. There are two ways to apply the experts to the sorted tokens:

- by slices: one product per expert with as many rows as it has tokens. No arithmetic is wasted, but the
  counts have to be read. Fastest on a CPU.
- by blocks: every expert's tokens fill whole blocks of a fixed number of rows, and all blocks are one batched
  product. The number of blocks depends on shapes alone: nothing is read back from an accelerator, and
  compilers see one graph.

N tokens, D width, F hidden width, E experts, K active experts, A = N * K assignments of a token to an expert.

References:
    DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024, arXiv:2412.19437 (shared experts, sigmoid scores).
    L. Wang, H. Gao, C. Zhao, X. Sun, D. Dai, "Auxiliary-Loss-Free Load Balancing Strategy for
    Mixture-of-Experts", 2024, arXiv:2408.15664 (bias).
    W. Fedus, B. Zoph, N. Shazeer, "Switch Transformers", 2021, arXiv:2101.03961 (auxiliary loss).
    T. Gale, D. Narayanan, C. Young, M. Zaharia, "MegaBlocks: Efficient Sparse Training with
    Mixture-of-Experts", 2022, arXiv:2211.15841 (no token dropped, blocks).
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from lemmata.apps.language_model.model.attention import initialize
from lemmata.apps.language_model.model.config import Balance, Router

__all__ = ["MixtureOfExperts", "SwiGLU"]


class SwiGLU(nn.Module):
    r"""A gated network: $y = W_d (\mathrm{silu}(W_g x) \odot W_u x)$.

    Shapes: `(*batch, width) -> (*batch, width)`.

    Args:
        width: Width of input and output.
        hidden: Width between.
        generator: Source of the initial weights; torch's global one where `None`.

    Examples:
        >>> SwiGLU(8, 16)(torch.randn(2, 3, 8)).shape
        torch.Size([2, 3, 8])

    References:
        N. Shazeer, "GLU Variants Improve Transformer", 2020, arXiv:2002.05202.
    """

    def __init__(self, width: int, hidden: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None, *, output_gain: float = 1.0) -> None:
        """Draw new weights.

        Args:
            generator: Their source; torch's global one where `None`.
            output_gain: Factor on those of the last matrix.
        """
        initialize(self.gate.weight, generator)
        initialize(self.up.weight, generator)
        initialize(self.down.weight, generator, output_gain)

    def forward(self, x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """Apply the network.

        Args:
            x: Input.

        Returns:
            The output.
        """
        hidden = functional.silu(self.gate(x)) * self.up(x)
        return self.down(hidden)  # type: ignore[no-any-return]  # a module's call is untyped


class MixtureOfExperts(nn.Module):
    """Shared experts, and routed ones of which each token passes a few.

    The routed experts' matrices are stacked: `gate` and `up` of shape (experts, hidden, width), `down` of
    shape (experts, width, hidden). An expert without tokens has a gradient of zeros. Scores are computed in
    float32 at least, under autocast too. While training, tokens per expert are counted without waiting for
    the device.

    Where one expert is active, its weight is its score: normalised it would be one, and the router would have
    no gradient.

    Shapes: `(*batch, width) -> (*batch, width)`.

    Args:
        width: Width of input and output.
        hidden: Hidden width of an expert.
        experts: Number of routed experts.
        active: Routed experts a token passes.
        shared: Experts every token passes; together one `SwiGLU` of width `shared * hidden`.
        router: What turns logits into scores.
        balance: What keeps the loads even.
        balance_rate: The bias' step, or the auxiliary loss' weight.
        generator: Source of the initial weights; torch's global one where `None`.

    Raises:
        ValueError: Where a number is out of its range, or a choice unknown.

    Examples:
        >>> layer = MixtureOfExperts(8, 16, experts=4, active=2)
        >>> layer(torch.randn(2, 3, 8)).shape
        torch.Size([2, 3, 8])
        >>> int(layer.pending_loads.sum())
        12
        >>> layer.update_balance(layer.pending_loads)
        >>> int(layer.loads.sum()), int(layer.pending_loads.sum())
        (12, 0)

    References:
        DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024, arXiv:2412.19437.
    """

    bias: Tensor

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        experts: int = 8,
        active: int = 2,
        shared: int = 1,
        router: Router = "sigmoid",
        balance: Balance = "bias",
        balance_rate: float = 1e-3,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        _check_options(experts, active, shared, router, balance, balance_rate)
        self.experts = experts
        self.active = active
        self.scores = router
        self.balance = balance
        self.balance_rate = balance_rate
        self.router = nn.Linear(width, experts, bias=False)
        self.gate = nn.Parameter(torch.empty(experts, hidden, width))
        self.up = nn.Parameter(torch.empty(experts, hidden, width))
        self.down = nn.Parameter(torch.empty(experts, width, hidden))
        self.shared = SwiGLU(width, shared * hidden) if shared else None
        self.register_buffer("bias", torch.zeros(experts, dtype=torch.float32))
        # Counts are no buffers: DistributedDataParallel would overwrite every process' with the first one's.
        self.pending_loads = torch.zeros(experts, dtype=torch.int64, device="cpu")
        self.loads = torch.zeros(experts, dtype=torch.int64, device="cpu")
        self.auxiliary_loss = torch.zeros((), device="cpu")
        self.reset_parameters(generator)

    @property
    def parameter_counts(self) -> tuple[int, int]:
        """Number of parameters, and of those that act on one token."""
        total = sum(parameter.numel() for parameter in self.parameters())
        idle = (self.gate.numel() + self.up.numel() + self.down.numel()) // self.experts
        return total, total - (self.experts - self.active) * idle

    def reset_parameters(self, generator: torch.Generator | None = None, *, output_gain: float = 1.0) -> None:
        """Draw new weights, and set the bias to zero.

        Args:
            generator: Their source; torch's global one where `None`.
            output_gain: Factor on those of the experts' last matrices.
        """
        # Scores that start close together let the bias even the loads within a few steps.
        initialize(self.router.weight, generator, 0.1)
        initialize(self.gate, generator)
        initialize(self.up, generator)
        initialize(self.down, generator, output_gain)
        nn.init.zeros_(self.bias)
        if self.shared is not None:
            self.shared.reset_parameters(generator, output_gain=output_gain)

    def forward(self, x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """Send every token through its experts.

        Args:
            x: Input.

        Returns:
            The output, before any residual connection.
        """
        x_ND = x.flatten(0, -2)
        chosen_NK, weights_NK, share_E = self._route(x_ND)
        counts_E = torch.zeros_like(share_E, dtype=torch.int64).scatter_add_(
            0, chosen_NK.flatten(), torch.ones_like(chosen_NK).flatten()
        )
        self._account(counts_E, share_E)
        # A few rows would leave most experts idle: there blocks are rows, and read the chosen experts only.
        few = chosen_NK.numel() <= self.experts
        if few or x.device.type != "cpu" or torch.compiler.is_compiling():
            y_AD = self._by_blocks(x_ND, chosen_NK, counts_E)
        else:
            y_AD = self._by_slices(x_ND, chosen_NK, counts_E)
        y_NKD = torch.unflatten(y_AD, 0, (-1, self.active))
        y_ND = (y_NKD * weights_NK.unsqueeze(-1).to(y_NKD.dtype)).sum(1)
        if self.shared is not None:
            y_ND = y_ND + self.shared(x_ND)
        return y_ND.view(x.shape)

    @torch.no_grad()
    def update_balance(self, loads: Int[Tensor, " E"]) -> None:
        """Move the bias by the loads since the last call, and start to count anew.

        Args:
            loads: Tokens per expert: `pending_loads`, summed over processes where there are several.
        """
        if self.balance == "bias":
            # mean - load, times the number of experts, in whole numbers
            shortfall = loads.sum() - self.experts * loads
            self.bias += self.balance_rate * shortfall.sign().to(self.bias)
        self.loads = self.loads.to(loads.device) + loads
        self.pending_loads = torch.zeros_like(self.pending_loads)

    def _route(
        self, x_ND: Float[Tensor, "N D"]
    ) -> tuple[Int[Tensor, "N K"], Float[Tensor, "N K"], Float[Tensor, " E"]]:
        """Return the chosen experts, their weights, and every expert's mean normalised score."""
        precision = torch.promote_types(x_ND.dtype, torch.float32)
        with torch.autocast(x_ND.device.type, enabled=False):
            logits = functional.linear(x_ND.to(precision), self.router.weight.to(precision))
            scores = logits.softmax(-1) if self.scores == "softmax" else logits.sigmoid()
            preference = scores.detach() + self.bias.to(precision)
            chosen = preference.topk(self.active, dim=-1).indices
            weights = scores.gather(-1, chosen)
            if self.active > 1:
                weights = weights / _at_least_tiny(weights.sum(-1, keepdim=True))
            share = (scores / _at_least_tiny(scores.sum(-1, keepdim=True))).mean(0)
        return chosen, weights, share

    def _account(self, counts_E: Int[Tensor, " E"], share_E: Float[Tensor, " E"]) -> None:
        """Count the tokens, and note the auxiliary loss."""
        if self.training:
            self.pending_loads = self.pending_loads.to(counts_E.device) + counts_E
        if self.balance == "loss":
            fraction_E = counts_E.to(share_E) / counts_E.sum().clamp(min=1)
            self.auxiliary_loss = self.balance_rate * self.experts * (fraction_E * share_E).sum()

    def _by_slices(
        self, x_ND: Float[Tensor, "N D"], chosen_NK: Int[Tensor, "N K"], counts_E: Int[Tensor, " E"]
    ) -> Float[Tensor, "A D"]:
        """Apply each expert to its slice of the sorted tokens."""
        order = chosen_NK.flatten().argsort(stable=True)
        slices = torch.split(x_ND.index_select(0, order // self.active), counts_E.tolist())
        outputs = [
            functional.linear(functional.silu(functional.linear(x, gate)) * functional.linear(x, up), down)
            for x, gate, up, down in zip(slices, self.gate, self.up, self.down, strict=True)
        ]
        return torch.cat(outputs).index_select(0, _inverse(order))

    def _by_blocks(
        self, x_ND: Float[Tensor, "N D"], chosen_NK: Int[Tensor, "N K"], counts_E: Int[Tensor, " E"]
    ) -> Float[Tensor, "A D"]:
        """Apply the experts to blocks of rows, each block one expert's.

        Filling up leaves less than a block empty per expert, whatever the counts: that bounds the blocks.
        Empty rows repeat the first token; nobody reads their output, so they have no part in any gradient.
        """
        assignments = chosen_NK.numel()
        rows = max(1, assignments // (4 * self.experts))
        blocks = (assignments + self.experts * (rows - 1)) // rows
        sorted_expert, order = chosen_NK.flatten().sort(stable=True)
        last_block_E = ((counts_E + rows - 1) // rows).cumsum(0)
        first_row_E = functional.pad(last_block_E, (1, 0))[:-1] * rows
        first_E = counts_E.cumsum(0) - counts_E
        here = torch.arange(assignments, device=order.device)
        row = here + (first_row_E - first_E).index_select(0, sorted_expert)
        token = torch.zeros(blocks * rows, dtype=torch.int64, device=order.device)
        token = token.scatter(0, row, order // self.active)
        block = torch.arange(blocks, device=order.device)
        expert = torch.searchsorted(last_block_E, block, right=True).clamp(max=self.experts - 1)
        x = torch.unflatten(x_ND.index_select(0, token), 0, (blocks, rows))
        gate, up, down = (stack.index_select(0, expert).mT for stack in (self.gate, self.up, self.down))
        y = (functional.silu(x @ gate) * (x @ up)) @ down
        return y.flatten(0, 1).index_select(0, row.index_select(0, _inverse(order)))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Keep the bias in float32 at least: its steps are lost in bfloat16."""
        bias = self.bias
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        precision = torch.promote_types(self.bias.dtype, torch.float32)
        if precision != self.bias.dtype:
            self.bias = bias.to(self.bias.device, precision)
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Leave the auxiliary loss' graph behind when copied or pickled."""
        return {**self.__dict__, "auxiliary_loss": self.auxiliary_loss.detach()}


def _inverse(order: Int[Tensor, " A"]) -> Int[Tensor, " A"]:
    here = torch.arange(order.numel(), device=order.device)
    return torch.empty_like(order).scatter_(0, order, here)


def _at_least_tiny(x: Tensor) -> Tensor:
    """Keep sums of scores, all of which may underflow, away from zero."""
    return x.clamp(min=torch.finfo(x.dtype).tiny)


def _check_options(
    experts: int, active: int, shared: int, router: str, balance: str, balance_rate: float
) -> None:
    if not 1 <= active <= experts:
        raise ValueError(f"`active` (={active}) must lie in [1, `experts` (={experts})]")
    if shared < 0:
        raise ValueError(f"`shared` (={shared}) must not be negative")
    if router not in {"sigmoid", "softmax"}:
        raise ValueError(f"`router` (={router!r}) must be one of sigmoid, softmax")
    if balance not in {"bias", "loss"}:
        raise ValueError(f"`balance` (={balance!r}) must be one of bias, loss")
    if not balance_rate >= 0:
        raise ValueError(f"`balance_rate` (={balance_rate}) must lie in [0, inf)")
