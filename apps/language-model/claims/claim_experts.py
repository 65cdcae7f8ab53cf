"""A mixture of experts against a dense layer of as many active parameters."""

from typing import Any

import pytest

from lemmata.apps.language_model.model import Decoder, DecoderConfig

RATES = (3e-3, 6e-3, 1e-2, 2e-2)
SEEDS = (0, 1, 2)
BALANCE_RATE = 0.03


@pytest.mark.long
def claim_experts_are_no_worse_than_a_dense_layer_of_as_many_active_parameters(
    claim: Any, train_variants: Any, draw_curves: Any
) -> None:
    """Train both alike."""
    variants: dict[str, dict[str, Any]] = {
        "dense": {"feedforward": "dense"},
        "experts": {
            "feedforward": "experts",
            "experts": 8,
            "active_experts": 2,
            "shared_experts": 1,
            "balance_rate": BALANCE_RATE,
        },
    }
    trained = train_variants(variants, RATES)
    counts = {
        label: Decoder(DecoderConfig(vocabulary=65, context=64, **options)).parameter_counts()
        for label, options in variants.items()
    }
    claim(
        sentence="A mixture of 8 experts of which a token passes 2, and one that all pass, reaches at least"
        " the loss of a dense layer with as many active parameters",
        paper="DeepSeek-AI, DeepSeek-V3 Technical Report, 2024, arXiv:2412.19437; S. Mehta, R. Dandekar, R."
        " Dandekar, S. Panat, Muon: Training and Trade-offs with Latent Attention and MoE, 2025,"
        " arXiv:2509.24406",
        published="8 to 12 % better perplexity, together with latent attention and Muon",
        setup="decoder of width 96, 3 blocks, 4 heads with latent attention, context 64, on"
        " tinyshakespeare's first 90 %, batches of 16, 300 steps, AdamW without weight decay, learning rates"
        " rising over 20 steps and falling to zero linearly, gradient clipped at 1; loss on 512 windows of"
        f" the other 10 %. Learning rate of either from {', '.join(f'{lr:g}' for lr in RATES)}, doubled or"
        " halved up to twice while either's best is at an end, chosen on seed 3, which is not judged",
        baseline="one SwiGLU of hidden width 256 in the same decoder",
        bars=[
            claim.bar(
                "parameters that act on a token, experts / dense",
                ours=counts["experts"][1],
                baseline=counts["dense"][1],
                value=counts["experts"][1] / counts["dense"][1],
                at_most=1.0,
            ),
            claim.bar(
                "mean final validation loss, experts / dense",
                ours=trained["experts"].mean,
                baseline=trained["dense"].mean,
                value=trained["experts"].mean / trained["dense"].mean,
                at_most=1.0,
            ),
        ],
        seeds=list(SEEDS),
        figure=draw_curves(trained),
        notes=f"Dense: {trained['dense'].told()}. Experts: {trained['experts'].told()}. Parameters in all:"
        f" {counts['dense'][0]:,} and {counts['experts'][0]:,}. The balance bias moves by {BALANCE_RATE:g} a"
        " step in place of 0.001, which leaves most tokens with two or three experts in a run this short; it"
        " was chosen by the loads after 60 steps on other text, not by a loss.",
    )
