"""What goes wrong in language-model is said in one line, with exit code 2, and leaves things as they were."""

import time

import pytest

FIT = ("fit", "--data.source", "text.txt", "--out", "run", "--trainer.max_steps", "2")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["compare", "--help"], ["demo", "--help"]])
def test_help_comes_at_once(run, arguments):
    seconds = []
    for _ in range(3):  # other tests run beside this one
        started = time.perf_counter()
        run("language-model", *arguments)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["frobnicate"], ["frobnicate", "generate"]),
        ([*FIT, "--data.source", "absent.txt"], ["absent.txt"]),
        ([*FIT, "--data.source", "short.txt"], ["short.txt", "64"]),
        ([*FIT, "--data.source", "bytes.txt"], ["bytes.txt", "UTF-8"]),
        ([*FIT, "--data.source", "empty.txt"], ["empty.txt"]),
        ([*FIT, "--data.tokenizer", "wordpiece"], ["wordpiece", "character", "bpe"]),
        ([*FIT, "--data.tokenizer", "bpe", "--data.vocabulary", "70000"], ["vocabulary", "70000"]),
        ([*FIT, "--model.optimizer", "adamx"], ["adamx", "adamw", "muon"]),
        ([*FIT, "--model.heads", "5"], ["heads", "5", "96"]),
        ([*FIT, "--model.active_experts", "9"], ["active_experts", "9", "8"]),
        ([*FIT, "--model.lr", "-1"], ["lr", "-1"]),
        ([*FIT, "--model.schedule", "absent.csv"], ["absent.csv"]),
        ([*FIT, "--model.compression", "zip"], ["zip", "topk"]),
        ([*FIT, "--resume", "last"], ["run"]),
        (["generate", "absent.ckpt"], ["absent.ckpt"]),
        (["generate", "short.txt"], ["short.txt"]),
        (["predict", "absent.ckpt", "text.txt"], ["absent.ckpt"]),
        (["export", "absent.ckpt", "--out", "exported"], ["absent.ckpt"]),
        (["compare", "--data", "text.txt", "--out", "c", "--optimizers", "adamx"], ["adamx", "adamw"]),
        (["plot", "absent"], ["absent"]),
    ],
    ids=lambda value: " ".join([value[0], *value[-2:]]) if isinstance(value, list) else None,
)
def test_one_line_and_exit_code_2(tmp_path, run, arguments, named):
    (tmp_path / "text.txt").write_text("The quick brown fox jumps over the lazy dog.\n" * 200)
    (tmp_path / "short.txt").write_text("Too short.")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe" * 2000)
    (tmp_path / "empty.txt").write_text("")
    before = {path.name: path.stat().st_size for path in tmp_path.iterdir()}

    result = run("language-model", *arguments, expect=2)

    (line,) = result.stderr.splitlines()
    assert line.startswith("language-model: error: ")
    assert all(name in line for name in named), line
    after = {path.name: path.stat().st_size for path in tmp_path.iterdir() if path.is_file()}
    assert after == before
