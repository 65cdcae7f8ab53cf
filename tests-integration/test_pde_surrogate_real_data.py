"""The published Darcy set trains unmodified through the loader."""

import json

import numpy as np


def test_the_published_darcy_set_trains_and_predicts(tmp_path, run, real_data):
    train, test = real_data("neuralop/darcy_train_16.pt"), real_data("neuralop/darcy_test_16.pt")
    inspected = run("pde-surrogate", "inspect", train)
    assert "12 of 1000 fields dip below zero" in inspected.stdout + inspected.stderr
    run(
        *("pde-surrogate", "fit", "--data.train", train, "--data.test", test, "--out", "run"),
        *("--model.size", "S", "--trainer.max_epochs", 3),
    )
    run("pde-surrogate", "evaluate", "run", "--data", test, "--out", "errors")
    errors = json.loads((tmp_path / "errors" / "results.json").read_text())
    assert errors
    run("pde-surrogate", "predict", "run", test, "--out", "solutions.npy")
    assert np.load(tmp_path / "solutions.npy").shape == (50, 1, 16, 16)
