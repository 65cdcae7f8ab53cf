import io
import os
import socket
import time
import warnings

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from lemmata.optim.schedules import GradientNormRecorder, refine_schedule


def network(dtype=torch.float32):
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).to(dtype)


def flat_norm(parameters, p):
    """Return the norm of all gradients by numpy, in float64."""
    grads = [param.grad.double().numpy().ravel() for param in parameters if param.grad is not None]
    return float(np.linalg.norm(np.concatenate(grads), p))


def train(recorder, model, optimizer, steps, *, clip=None, seed=0, p=2):
    """Train on random batches; return the norms of the gradients before clipping."""
    generator = torch.Generator().manual_seed(seed)
    norms = []
    for _ in range(steps):
        x = torch.randn(4, 5, generator=generator).to(next(model.parameters()).dtype)
        optimizer.zero_grad()
        model(x).square().sum().backward()
        norms.append(flat_norm(model.parameters(), p))
        if clip is not None:
            recorder.record()
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
    return norms


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 1e-6)]
)
def test_hook_records_numpys_norm_of_every_step(p, dtype, tolerance):
    model = network(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    recorder = GradientNormRecorder(optimizer, p=p)
    expected = train(recorder, model, optimizer, 6, p=p)
    norms = recorder.norms()
    assert norms.dtype == torch.float64
    np.testing.assert_allclose(norms.numpy(), expected, rtol=tolerance)


def test_parameters_of_several_dtypes_and_groups_make_one_norm():
    parameters = [
        torch.zeros(3, dtype=dtype, requires_grad=True)
        for dtype in (torch.float32, torch.float64, torch.bfloat16)
    ]
    optimizer = torch.optim.SGD([{"params": [param]} for param in parameters], lr=0.1)
    for param, value in zip(parameters, (1.0, 2.0, -3.0), strict=True):
        param.grad = torch.full_like(param, value)
    for p, expected in ((1, 18.0), (2, 42**0.5)):
        recorder = GradientNormRecorder(optimizer, p=p, hook=False)
        recorder.record()
        assert recorder.norms().tolist() == pytest.approx([expected])


def test_the_hook_sees_clipped_gradients_and_record_the_unclipped():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    before, after = GradientNormRecorder(optimizer, hook=False), GradientNormRecorder(optimizer)
    expected = train(before, model, optimizer, 5, clip=0.1)
    np.testing.assert_allclose(before.norms().numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(after.norms().numpy(), [0.1] * 5, rtol=1e-3)


def test_gradients_parameters_and_generator_are_left_alone():
    plain, recorded = network(), network()
    recorded.load_state_dict(plain.state_dict())
    optimizers = [torch.optim.AdamW(model.parameters()) for model in (plain, recorded)]
    state = torch.get_rng_state()
    GradientNormRecorder(optimizers[1], p=1)
    for model, optimizer in zip((plain, recorded), optimizers, strict=True):
        train(None, model, optimizer, 4)
    assert torch.equal(state, torch.get_rng_state())
    for ours, theirs in zip(recorded.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize("stride", [2, 3, 10, 100])
@pytest.mark.parametrize("steps", [1, 2, 13, 31])
def test_stride_interpolates(stride, steps):
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    recorder = GradientNormRecorder(optimizer, stride=stride)
    for step in range(steps):
        weight.grad = torch.tensor([float(step**2 + 1)])
        optimizer.step()
    at = np.arange(0, steps, stride)
    expected = np.interp(np.arange(steps), at, at**2.0 + 1)
    np.testing.assert_allclose(recorder.norms().numpy(), expected, rtol=1e-12)


def test_stays_on_the_device_until_flushed(monkeypatch):
    weight = torch.ones(3, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    recorder = GradientNormRecorder(optimizer)
    weight.grad = torch.ones(3)
    with monkeypatch.context() as forbidden:
        for name in ("item", "__float__", "__bool__", "tolist", "numpy", "cpu"):
            forbidden.setattr(torch.Tensor, name, lambda *args, name=name: pytest.fail(f"called {name}"))
        for _ in range(3000):  # more than two chunks
            recorder._before_step(optimizer, (), {})
    assert recorder.norms().tolist() == pytest.approx([3**0.5] * 3000)


def test_norms_may_be_asked_for_again_and_again():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    recorder = GradientNormRecorder(optimizer)
    expected = []
    for _ in range(4):
        expected += train(recorder, model, optimizer, 3)
        np.testing.assert_allclose(recorder.norms().numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("stride", [1, 3])
def test_resume_equals_uninterrupted(stride):
    def run(resumed_after):
        torch.manual_seed(0)
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        recorder = GradientNormRecorder(optimizer, stride=stride)
        train(recorder, model, optimizer, resumed_after)
        file = io.BytesIO()
        torch.save(recorder.state_dict(), file)
        file.seek(0)
        recorder.remove()
        recorder = GradientNormRecorder(optimizer, stride=stride)
        recorder.load_state_dict(torch.load(file, weights_only=True))
        train(recorder, model, optimizer, 10 - resumed_after, seed=0)
        return recorder.norms()

    def straight(resumed_after):
        torch.manual_seed(0)
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        recorder = GradientNormRecorder(optimizer, stride=stride)
        train(recorder, model, optimizer, resumed_after)
        train(recorder, model, optimizer, 10 - resumed_after, seed=0)
        return recorder.norms()

    for stop in (0, 1, 4, 5, 9):
        assert torch.equal(run(stop), straight(stop))


def test_parameters_without_gradients_are_passed_over():
    first, second = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    optimizer = torch.optim.SGD([first, second, torch.zeros(0, requires_grad=True)], lr=0.1)
    recorder = GradientNormRecorder(optimizer)
    first.grad = torch.tensor([3.0, 4.0])
    optimizer.step()
    assert recorder.norms().tolist() == [5.0]


def test_sparse_gradients():
    table = nn.Embedding(10, 3, sparse=True)
    optimizer = torch.optim.SparseAdam(table.parameters())
    recorder = GradientNormRecorder(optimizer)
    table(torch.tensor([1, 1, 4])).sum().backward()
    optimizer.step()
    assert recorder.norms().tolist() == pytest.approx([(3 * 4 + 3) ** 0.5])


def test_steps_without_gradients_or_with_infinite_ones_are_interpolated_with_a_warning():
    weight = torch.ones(1, requires_grad=True)
    recorder = GradientNormRecorder(torch.optim.SGD([weight], lr=0.1), hook=False)
    for value in (2.0, None, 6.0, float("inf"), float("nan")):
        weight.grad = None if value is None else torch.tensor([value])
        recorder.record()
    with pytest.warns(UserWarning, match="3 of 5 gradient norms"):
        norms = recorder.norms()
    assert norms.tolist() == [2, 4, 6, 6, 6]


def test_nothing_recorded_raises():
    optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.1)
    recorder = GradientNormRecorder(optimizer)
    with pytest.raises(RuntimeError, match="no finite gradient norm was recorded in 0 steps"):
        recorder.norms()


def test_unscaled_by_a_grad_scaler():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    recorder = GradientNormRecorder(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    x = torch.randn(4, 5)
    scaler.scale(model(x).square().sum()).backward()
    scaled = flat_norm(model.parameters(), 2)
    scaler.step(optimizer)
    np.testing.assert_allclose(recorder.norms().numpy(), [scaled / 1024], rtol=1e-5)
    # A step that the scaler skips is no step of the optimiser.
    scaler.update()
    next(model.parameters()).grad.fill_(torch.inf)
    scaler.step(optimizer)
    assert recorder.steps == 1


def test_fused_optimizers_that_unscale_by_themselves():
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    recorder = GradientNormRecorder(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(model(torch.randn(4, 5)).square().sum()).backward()
    scaled = flat_norm(model.parameters(), 2)
    scaler.step(optimizer)
    np.testing.assert_allclose(recorder.norms().numpy(), [scaled / 1024], rtol=1e-5)


def test_a_closure_raises_with_the_hook_and_works_by_hand():
    weight = torch.tensor([3.0, 4.0], requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.5)
    recorder = GradientNormRecorder(optimizer)

    def closure():
        optimizer.zero_grad()
        loss = 0.5 * weight.square().sum()
        loss.backward()
        by_hand.record()
        nn.utils.clip_grad_norm_([weight], 1.0)
        return loss

    for arguments in (((closure,), {}), ((), {"closure": closure})):
        with pytest.raises(RuntimeError, match="pass hook=False"):
            optimizer.step(*arguments[0], **arguments[1])
    assert weight.tolist() == [3, 4]
    recorder.remove()
    by_hand = GradientNormRecorder(optimizer, hook=False)
    optimizer.step(closure)
    assert by_hand.norms().tolist() == [5.0]


def test_record_by_hand_beside_the_hook_raises():
    recorder = GradientNormRecorder(torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.1))
    with pytest.raises(RuntimeError, match="pass hook=False"):
        recorder.record()


def test_removed_hooks_record_nothing_more():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    recorder = GradientNormRecorder(optimizer)
    train(recorder, model, optimizer, 2)
    recorder.remove()
    train(recorder, model, optimizer, 2)
    assert len(recorder.norms()) == 2


def test_from_a_recording_to_a_schedule():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    recorder = GradientNormRecorder(optimizer)
    train(recorder, model, optimizer, 20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert refine_schedule(recorder.norms(), total_steps=30).shape == (30,)


@pytest.mark.parametrize(
    ("options", "message"), [({"p": 3}, r"`p` \(=3\)"), ({"stride": 0}, r"`stride` \(=0\)")]
)
def test_names_what_does_not_fit(options, message):
    optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.1)
    with pytest.raises(ValueError, match=message):
        GradientNormRecorder(optimizer, **options)
    assert not optimizer._optimizer_step_pre_hooks


@pytest.mark.parametrize("other", [{"p": 1}, {"stride": 2}])
def test_a_state_of_another_recording_raises(other):
    optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.1)
    saved = GradientNormRecorder(optimizer, **other, hook=False).state_dict()
    [name] = other
    with pytest.raises(ValueError, match=f"recorded with `{name}`"):
        GradientNormRecorder(optimizer, hook=False).load_state_dict(saved)


def sharded_worker(rank, port, folder):
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    mesh = torch.distributed.init_device_mesh("cpu", (2,))
    torch.manual_seed(0)
    *shared, plain = [param.detach() for param in network().parameters()]
    kinds = [Shard(0), Replicate(), Shard(1)]
    parameters = [distribute_tensor(part, mesh, [kind]) for part, kind in zip(shared, kinds, strict=True)]
    parameters = [nn.Parameter(part) for part in [*parameters, plain]]
    for param in parameters:
        param.grad = param.detach().clone()
    optimizer = torch.optim.SGD(parameters, lr=0.0)
    recorders = [GradientNormRecorder(optimizer, p=p) for p in (1, 2)]
    optimizer.step()
    torch.save(torch.cat([recorder.norms() for recorder in recorders]), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
def test_sharded_gradients_give_the_norm_of_the_whole_on_every_rank(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    workers = mp.spawn(sharded_worker, args=(port, str(tmp_path)), nprocs=2, join=False)
    deadline = time.monotonic() + 120
    while not workers.join(timeout=1):  # returns as soon as one worker ends
        if time.monotonic() > deadline:
            for process in workers.processes:
                process.kill()
            pytest.fail("the workers did not end")
    torch.manual_seed(0)
    whole = torch.cat([param.detach().flatten() for param in network().parameters()]).double()
    expected = torch.stack([whole.norm(1), whole.norm(2)])
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
