"""The decoder: causality, caches, initialisation, counts, precision, copies, compilation, processes."""

import copy
import io
import math
import pickle
import socket
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from lemmata.apps.language_model.model import Decoder, DecoderConfig

KINDS = {
    "latent experts": {},
    "latent dense": {"feedforward": "dense"},
    "multihead experts": {"attention": "multihead", "router": "softmax", "balance": "loss"},
    "multihead dense": {"attention": "multihead", "feedforward": "dense", "qk_norm": True},
    "everything": {"query_rank": 10, "qk_norm": True, "shared_experts": 2, "tie_embeddings": True},
}


def config(**options):
    return DecoderConfig(**{"vocabulary": 11, "context": 16, "width": 16, "depth": 2, **options})


def decoder(seed=2, *, head=True, **options):
    model = Decoder(config(**options), generator=torch.Generator().manual_seed(seed))
    if head and not model.config.tie_embeddings:
        torch.nn.init.normal_(model.lm_head.weight, std=0.3, generator=torch.Generator().manual_seed(seed))
    return model


def tokens(batch=3, length=16, seed=7):
    return torch.randint(11, (batch, length), generator=torch.Generator().manual_seed(seed))


def loss_of(model, inputs, decoder=None):
    logits = model(inputs[:, :-1])
    loss = functional.cross_entropy(logits.flatten(0, 1), inputs[:, 1:].flatten())
    return loss + (decoder or model).auxiliary_loss()


@pytest.fixture(params=KINDS, ids=lambda name: name.replace(" ", "_"))
def options(request):
    return KINDS[request.param]


@torch.no_grad()
def test_a_later_token_changes_no_earlier_logits(options):
    model = decoder(**options).double()
    before = model(tokens())
    for t in range(1, 16):
        changed = tokens()
        changed[:, t:] = tokens(length=16 - t, seed=t)
        torch.testing.assert_close(model(changed)[:, :t], before[:, :t], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("split", [[1] * 16, [16], [7, 1, 3, 5]])
@torch.no_grad()
def test_cached_passes_equal_the_full_pass(options, split, dtype, tolerance):
    model = decoder(**options).to(dtype).eval()
    cache = model.new_cache(3)
    pieces = [model.forward_cached(piece, cache) for piece in tokens().split(split, 1)]
    torch.testing.assert_close(torch.cat(pieces, 1), model(tokens()), rtol=0, atol=tolerance)
    assert cache.length == 16


def test_equal_seeds_give_equal_models(options):
    one, other, third = (Decoder(config(**options), generator=g) for g in map(seeded, (1, 1, 2)))
    for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert not torch.equal(one.embedding.weight, third.embedding.weight)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_first_loss_is_the_logarithm_of_the_vocabulary():
    model = decoder(head=False, balance="bias")
    assert float(loss_of(model, tokens()).detach()) == pytest.approx(math.log(11), abs=1e-6)


def test_the_residual_stream_starts_near_unit_variance_at_any_depth():
    model = Decoder(config(depth=12, width=64, context=64), generator=seeded(0))
    x = model.embedding(torch.randint(11, (8, 64), generator=seeded(1)))
    for block in model.blocks:
        x = block(x)
    assert 0.5 < float(x.detach().std()) < 2.0


def test_every_parameter_gets_a_gradient(options):
    model = decoder(**options)
    loss_of(model, tokens()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name


def test_gradients_are_those_of_differences(options):
    model = decoder(**{**options, "width": 8, "heads": 2, "depth": 1, "hidden": 3}).double()
    names, parameters = zip(*model.named_parameters(), strict=True)
    inputs = tokens(2, 5)

    def function(*values):
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), inputs)

    assert torch.autograd.gradcheck(function, parameters, fast_mode=True)


def test_learns_a_repeated_text(options):
    model = decoder(head=False, **options)
    text = torch.arange(17).remainder(5).expand(8, 17)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        loss = loss_of(model, text)
        loss.backward()
        optimizer.step()
        model.update_balance()
    assert float(loss.detach()) < 0.2


# Counts


def test_the_default_is_the_claims_decoder():
    model = Decoder(DecoderConfig(vocabulary=65, context=64))
    total, active = model.parameter_counts()
    dense = Decoder(DecoderConfig(vocabulary=65, context=64, feedforward="dense"))
    assert 0.34e6 < active <= dense.parameter_counts()[0] < 0.36e6
    assert total == sum(p.numel() for p in model.parameters())
    assert dense.parameter_counts()[0] == dense.parameter_counts()[1]
    baseline = Decoder(DecoderConfig(vocabulary=65, context=64, attention="multihead"))
    assert baseline.cache_numbers_per_token() == 3 * 2 * 96
    assert model.cache_numbers_per_token() == 3 * (52 + 12)
    assert model.cache_numbers_per_token() <= 0.35 * baseline.cache_numbers_per_token()
    cache = model.new_cache(2, 10)
    assert cache.numbers_per_token == model.cache_numbers_per_token()
    assert cache.nbytes == 2 * 10 * 4 * cache.numbers_per_token
    assert cache.capacity == 10


def test_experts_are_stacks_and_routers_are_named_for_exclusion():
    model = decoder()
    names = dict(model.named_parameters())
    assert names["blocks.0.feedforward.gate"].ndim == 3
    assert model.matrix_parameter_exclusions() == ("lm_head", "router")
    excluded = [name for name in names if {"lm_head", "router"} & set(name.split("."))]
    assert excluded == [
        "blocks.0.feedforward.router.weight",
        "blocks.1.feedforward.router.weight",
        "lm_head.weight",
    ]


def test_loads_are_told_counted_and_forgotten():
    model = decoder()
    assert all(float(loads.sum()) == 0 for loads in model.expert_loads().values())
    model(tokens())
    model.update_balance()
    loads = model.expert_loads()
    assert list(loads) == ["blocks.0.feedforward", "blocks.1.feedforward"]
    assert all(float(fractions.sum()) == pytest.approx(1) for fractions in loads.values())
    assert bool((model.blocks[0].feedforward.bias != 0).any())
    model.reset_expert_loads()
    assert all(float(loads.sum()) == 0 for loads in model.expert_loads().values())
    dense = decoder(feedforward="dense")
    dense.update_balance()
    assert dense.expert_loads() == {}
    assert float(dense.auxiliary_loss()) == 0


def test_auxiliary_loss_is_zero_unless_asked_for():
    model = decoder()
    model(tokens())
    assert float(model.auxiliary_loss()) == 0
    model = decoder(balance="loss", balance_rate=0.1)
    model(tokens())
    assert float(model.auxiliary_loss().detach()) >= 2 * 0.1 * 0.99
    assert model.auxiliary_loss().requires_grad


# Precision, copies, errors


def test_half_precision_and_autocast(options):
    model = decoder(**options)
    expected = model(tokens())
    half = copy.deepcopy(model).bfloat16()
    assert half(tokens()).dtype == torch.bfloat16
    assert bool(half(tokens()).isfinite().all())
    with torch.autocast("cpu", torch.bfloat16):
        loss_of(model, tokens()).backward()
        # A rounded input may send a token to another expert: most logits are near, not all.
        assert float((model(tokens()).float() - expected).detach().abs().mean()) < 0.05
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())


def test_float64_rotations_are_exact_after_conversion():
    converted = decoder().double()
    torch.set_default_dtype(torch.float64)
    try:
        built = decoder()
    finally:
        torch.set_default_dtype(torch.float32)
    built.load_state_dict(converted.state_dict())
    assert torch.equal(built(tokens()), converted(tokens()))


def test_copies_pickles_and_state_dicts(options):
    model = decoder(**options)
    loss_of(model, tokens()).backward()
    model.update_balance()
    expected = model(tokens())
    stream = io.BytesIO()
    torch.save(model.state_dict(), stream)
    stream.seek(0)
    loaded = decoder(seed=5, **options)
    loaded.load_state_dict(torch.load(stream, weights_only=True))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), loaded):
        assert torch.equal(twin(tokens()), expected)


def test_meta_construction_then_weights(options):
    with torch.device("meta"):
        model = Decoder(config(**options))
    model = model.to_empty(device="cpu")
    model.reset_parameters(seeded(2))
    expected = Decoder(config(**options), generator=seeded(2))
    for (name, ours), theirs in zip(model.state_dict().items(), expected.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    assert torch.equal(model(tokens()), expected(tokens()))
    model.update_balance()


def test_dropout_acts_in_training_only():
    model = decoder(dropout=0.3)
    assert not torch.equal(model(tokens()), model(tokens()))
    model.eval()
    assert torch.equal(model(tokens()), model(tokens()))


def test_errors():
    model = decoder()
    with pytest.raises(ValueError, match=r"17 tokens from position 0 on end beyond `context` \(=16\)"):
        model(tokens(length=17))
    with pytest.raises(ValueError, match=r"`length` \(=17\) must lie in \[1, `context` \(=16\)\]"):
        model.new_cache(1, 17)
    cache = model.new_cache(3, 4)
    with pytest.raises(ValueError, match=r"5 tokens after 0 do not fit the cache's `capacity` \(=4\)"):
        model.forward_cached(tokens(length=5), cache)
    assert cache.length == 0


# Compilation and processes


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("kind", "backend"), [*((kind, "aot_eager") for kind in KINDS), ("latent experts", "inductor")]
)
def test_compiles_to_one_graph(kind, backend):
    torch.compiler.reset()
    model = decoder(**{**KINDS[kind], "depth": 1}).double()
    twin = copy.deepcopy(model)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    loss_of(compiled, tokens(), model).backward()
    loss_of(twin, tokens()).backward()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-10)
    torch.testing.assert_close(model.auxiliary_loss(), twin.auxiliary_loss())
    model.update_balance()
    twin.update_balance()
    for name, loads in model.expert_loads().items():
        assert torch.equal(loads, twin.expert_loads()[name])


def _train_share(rank, world, port, folder, options):
    """Train one process' share of each batch; called in a process of its own."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world
    )
    model = decoder(**options).double()
    wrapped = DistributedDataParallel(model)
    _train(wrapped, model, lambda batch: batch[rank::world])
    torch.save((model.state_dict(), model.expert_loads()), Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def _train(wrapped, model, share):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(5):
        optimizer.zero_grad()
        loss_of(wrapped, share(tokens(4, seed=step)), model).backward()
        optimizer.step()
        model.update_balance()


@pytest.mark.slow
def test_two_processes_equal_one_with_the_double_batch(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Many experts for few tokens: some are idle, and their gradients must not be missing.
    options = {"experts": 16, "active_experts": 2}
    torch.multiprocessing.spawn(_train_share, (2, port, str(tmp_path), options), nprocs=2)
    model = decoder(**options).double()
    _train(model, model, lambda batch: batch)
    for rank in range(2):
        state, loads = torch.load(tmp_path / f"{rank}.pt")
        for name, value in model.state_dict().items():
            torch.testing.assert_close(state[name], value, rtol=0, atol=1e-12, msg=name)
        assert all(torch.equal(loads[name], value) for name, value in model.expert_loads().items())
