"""What the parts cost: counted where it can be counted, and ratios of the bare figures beside them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lemmata.apps.language_model import bench
from lemmata.apps.language_model.bench import optimizer_costs
from lemmata.apps.language_model.model import DecoderConfig

TINY: dict[str, Any] = {
    "model": {"width": 32, "depth": 1, "heads": 2, "context": 16, "experts": 4},
    "batch_size": 2,
    "repeats": 2,
    "prompt": 4,
    "optimizers": "lion",
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = bench(out=tmp_path_factory.mktemp("bench") / "b", **TINY)
    assert {path.name for path in out.iterdir()} == {
        "bench.json",
        *(f"{stem}.{suffix}" for stem in ("optimizers", "attention", "experts") for suffix in ("csv", "md")),
    }
    found: dict[str, Any] = json.loads((out / "bench.json").read_text())
    return found


class TestBench:
    def test_state_is_counted(self, results: dict[str, Any]) -> None:
        adamw, lion = results["optimizers"]
        assert (adamw["step_time"], adamw["update_time"]) == (1.0, 1.0)
        assert adamw["state_bytes"] == pytest.approx(8.0, abs=0.02)  # two moments, and a step count a tensor
        assert lion["state_bytes"] == pytest.approx(4.0, abs=0.02)

    def test_the_latent_cache_is_what_its_widths_say(self, results: dict[str, Any]) -> None:
        multihead, latent = results["attention"]
        sizes = DecoderConfig.from_dict(results["model"]).sizes
        assert multihead["cache_bytes"] == 4 * 2 * 32
        assert latent["cache_bytes"] == 4 * (sizes.latent + sizes.rope)
        assert latent["cache"] == latent["cache_bytes"] / multihead["cache_bytes"] <= 0.35
        assert latent["speed"] == pytest.approx(latent["tokens_per_second"] / multihead["tokens_per_second"])

    def test_experts_have_more_parameters_and_as_many_active(self, results: dict[str, Any]) -> None:
        dense, experts = results["experts"]
        assert dense["total_parameters"] == dense["active_parameters"]
        assert experts["total"] > 1
        assert 0.9 < experts["active"] <= 1

    def test_a_given_hidden_width_keeps_active_parameters_equal(self, tmp_path: Path) -> None:
        model = {**TINY["model"], "hidden": 8}
        out = bench(out=tmp_path / "b", **{**TINY, "model": model})
        [dense, experts] = json.loads((out / "bench.json").read_text())["experts"]
        router = experts["active_parameters"] - dense["active_parameters"]
        assert router == 32 * 4

    def test_the_global_random_state_is_left_alone(self) -> None:
        config = DecoderConfig(vocabulary=8, context=4, width=8, depth=1, heads=2, experts=2)
        before = torch.random.get_rng_state()
        optimizer_costs(config, ["adamw"], batch_size=1, repeats=1)
        assert torch.equal(before, torch.random.get_rng_state())

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"repeats": 0}, r"`repeats` \(=0\)"),
            ({"prompt": 16}, r"`prompt` \(=16\) must be smaller than the context \(=16\)"),
            ({"optimizers": ["nag"]}, r"`optimizer` \(='nag'\)"),
            ({"model": {"heads": 5}}, "`heads`"),
            ({"model": {"tallness": 5}}, "`tallness`"),
        ],
    )
    def test_arguments_are_checked_first(self, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=message):
            bench(out=tmp_path / "b", **{**TINY, **changes})
        assert not (tmp_path / "b").exists()

    def test_results_are_not_replaced_unasked(self, tmp_path: Path) -> None:
        (tmp_path / "bench.json").write_text("{}")
        with pytest.raises(FileExistsError, match="--force"):
            bench(out=tmp_path, **TINY)
