"""The published acetylacetone set goes through the loader, trains and is judged."""

import json


def test_acetylacetone_is_prepared_trained_on_and_evaluated(tmp_path, run, real_data):
    frames, isolated = (real_data(f"acetylacetone/{name}.xyz") for name in ("train_300K", "isolated_atoms"))
    run("interatomic", "prepare", frames, "data", "--isolated", isolated)
    card = json.loads((tmp_path / "data" / "card.json").read_text())
    assert card["elements"] == ["H", "C", "O"]
    assert set(card["E0s_from"].values()) == {"isolated atom"}
    run(
        *("interatomic", "fit", "--data.source", "data", "--out", "run", "--trainer.max_epochs", 1),
        *("--model.model_options", '{"channels": 4}'),
    )
    run("interatomic", "evaluate", "run", "data", "--out", "errors")
    table = (tmp_path / "errors" / "errors.csv").read_text()
    assert "F MAE (meV/A)" in table
