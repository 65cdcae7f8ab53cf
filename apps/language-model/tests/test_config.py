"""The decoder's options: defaults worked out, JSON, errors."""

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmata.apps.language_model.model import Decoder, DecoderConfig


def config(**options):
    return DecoderConfig(**{"vocabulary": 65, "context": 64, **options})


@given(heads=st.integers(1, 16), head=st.integers(6, 64))
@settings(deadline=None, max_examples=100)
def test_the_default_cache_is_at_most_35_percent_of_multi_head_attentions(heads, head):
    sizes = config(width=heads * head, heads=heads).sizes
    assert 100 * (sizes.latent + sizes.rope) <= 35 * 2 * heads * head
    assert sizes.rope % 2 == 0
    assert sizes.rope >= 2
    assert sizes.latent >= 1


def test_defaults_are_those_of_the_claims():
    sizes = config().sizes
    assert sizes == (24, 12, 52, 84)
    assert config(feedforward="dense").sizes.hidden == 256


@pytest.mark.parametrize("width", [48, 96, 160, 256])
@pytest.mark.parametrize(("active", "shared"), [(1, 0), (2, 1), (3, 2)])
def test_default_experts_cost_a_token_at_most_what_the_dense_network_costs(width, active, shared):
    options = {"width": width, "active_experts": active, "shared_experts": shared, "depth": 1}
    _, experts = Decoder(config(**options)).parameter_counts()
    _, dense = Decoder(config(**options, feedforward="dense")).parameter_counts()
    step = 4 * 3 * width * (active + shared)
    assert dense - step < experts <= dense


def test_given_sizes_are_taken():
    assert config(latent_rank=20, rope_width=6, hidden=10).sizes == (24, 6, 20, 10)


def test_survives_json_and_derived_sizes_follow_a_replacement():
    first = config(latent_rank=24, router="softmax", dropout=0.1)
    assert DecoderConfig.from_dict(json.loads(json.dumps(first.to_dict()))) == first
    assert DecoderConfig.from_dict({"vocabulary": 65, "context": 64}) == config()
    assert dataclasses.replace(config(), width=192).sizes.head == 48


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 5}, r"`heads` \(=5\) must divide `width` \(=96\)"),
        ({"width": 0}, r"`width` \(=0\) must be an integer of at least 1"),
        ({"context": 0}, r"`context` \(=0\) must be an integer of at least 1"),
        ({"vocabulary": 0}, r"`vocabulary` \(=0\)"),
        ({"depth": True}, r"`depth` \(=True\) must be an integer"),
        ({"latent_rank": 0}, r"`latent_rank` \(=0\)"),
        ({"rope_width": 7}, r"`rope_width` \(=7\) must be even"),
        ({"shared_experts": -1}, r"`shared_experts` \(=-1\) must be an integer of at least 0"),
        ({"active_experts": 9}, r"`active_experts` \(=9\) must be at most `experts` \(=8\)"),
        ({"attention": "flash"}, r"`attention` \(='flash'\) must be one of latent, multihead"),
        ({"feedforward": "mlp"}, r"`feedforward` \(='mlp'\) must be one of experts, dense"),
        ({"router": "hash"}, r"`router` \(='hash'\) must be one of sigmoid, softmax"),
        ({"balance": "none"}, r"`balance` \(='none'\) must be one of bias, loss"),
        ({"balance_rate": -1.0}, r"`balance_rate` \(=-1.0\) must lie in \[0, inf\)"),
        ({"balance_rate": float("nan")}, r"`balance_rate` \(=nan\)"),
        ({"dropout": 1.0}, r"`dropout` \(=1.0\) must lie in \[0, 1\)"),
        ({"rope_base": 0.5}, r"`rope_base` \(=0.5\) must lie in \[1, inf\)"),
        ({"width": 12, "attention": "multihead"}, r"`width` / `heads` \(=3\) must be even"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_errors_name_option_value_and_range(options, message):
    with pytest.raises(ValueError, match=message):
        config(**options)


def test_from_dict_names_unknown_and_missing_options():
    with pytest.raises(
        ValueError, match="`girth` is no option of the decoder; there are vocabulary, context"
    ):
        DecoderConfig.from_dict({"vocabulary": 65, "context": 64, "girth": 5})
    with pytest.raises(ValueError, match="`context` is missing"):
        DecoderConfig.from_dict({"vocabulary": 65})
