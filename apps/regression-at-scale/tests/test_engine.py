import json
import logging
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from lemmata.apps.regression_at_scale.engine.checkpoint import Checkpoint
from lemmata.apps.regression_at_scale.engine.engine import Engine
from lemmata.apps.regression_at_scale.engine.passes import Pass, Source
from lemmata.apps.regression_at_scale.engine.progress import Silent, open_progress
from lemmata.apps.regression_at_scale.engine.scheduler import Workers, connect, one_thread


@dataclass(frozen=True)
class Piece:
    start: int
    rows: int


@dataclass(frozen=True)
class Numbers:
    """Rows that are random numbers of very different sizes, whose sum depends on its order."""

    rows: int
    step: int = 10
    bad: tuple[int, ...] = ()

    @property
    def chunks(self) -> list[Piece]:
        return [Piece(i, min(self.step, self.rows - i)) for i in range(0, self.rows, self.step)]

    def read(self, chunk: Piece) -> torch.Tensor:
        for row in self.bad:
            if chunk.start <= row < chunk.start + chunk.rows:
                raise ValueError(f"file.parquet: row group 3, row {row}, column 'x': the value is missing")
        generator = torch.Generator().manual_seed(chunk.start)
        z = torch.randn(chunk.rows, 3, dtype=torch.float64, generator=generator)
        return z * 10 ** (6 * torch.rand(chunk.rows, 1, dtype=torch.float64, generator=generator))


@dataclass(frozen=True)
class Sum:
    name: str = "sum"

    def partial(self, rows: torch.Tensor) -> dict[str, Any]:
        return {"sum": rows.sum(0), "rows": len(rows)}

    def add(self, first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
        return {"sum": first["sum"] + second["sum"], "rows": first["rows"] + second["rows"]}


@dataclass(frozen=True)
class Slow(Sum):
    """A sum whose chunks take longer the earlier they come, so that tasks finish out of order."""

    def partial(self, rows: torch.Tensor) -> dict[str, Any]:
        time.sleep(0.02 * float(rows.abs().max() % 1))
        return super().partial(rows)


def test_protocols_hold():
    assert isinstance(Sum(), Pass)
    assert isinstance(Numbers(1), Source)
    with connect() as pool:
        assert isinstance(pool, Workers)


def test_folds_all_rows():
    source = Numbers(95)
    state = Engine(source, workers=2).run(Sum())
    expected = torch.cat([source.read(chunk) for chunk in source.chunks]).sum(0)
    torch.testing.assert_close(state["sum"], expected, rtol=1e-12, atol=0)
    assert state["rows"] == 95


@pytest.mark.parametrize("group", [None, 1, 3, 1000])
def test_workers_do_not_change_a_bit(group):
    source = Numbers(400)
    states = [Engine(source, workers=n, group=group).run(Slow()) for n in (1, 2, 4, 7)]
    assert all(torch.equal(state["sum"], states[0]["sum"]) for state in states)


def test_groups_are_folded_left_to_right():
    class Words:
        chunks = tuple(Piece(i, 1) for i in range(26))

        def read(self, chunk):
            return chr(ord("a") + chunk.start)

    class Join:
        name = "join"

        def partial(self, rows):
            return {"text": rows}

        def add(self, first, second):
            return {"text": f"({first['text']}{second['text']})"}

    flat = Engine(Words(), workers=3, group=1).run(Join())["text"]
    assert flat.replace("(", "").replace(")", "") == "abcdefghijklmnopqrstuvwxyz"
    grouped = Engine(Words(), workers=3, group=13).run(Join())["text"]
    assert grouped.count("(") == 25
    assert "((((((((((((ab)c)" in grouped


def test_more_chunks_make_larger_groups_whatever_the_workers():
    sizes = []

    class Log(Sum):
        def add(self, first, second):
            return super().add(first, second)

    class Told(Silent):
        def advance(self, rows):
            sizes.append(rows)

    Engine(Numbers(10 * 64, 1), workers=2, progress=Told()).run(Log())
    assert set(sizes) == {8}
    sizes.clear()
    Engine(Numbers(100, 1), workers=2, progress=Told()).run(Log())
    assert set(sizes) == {1}


def test_the_window_is_bounded():
    alive, most = set(), []
    lock = threading.Lock()

    class Tracked(dict):
        def __init__(self, *args):
            super().__init__(*args)
            with lock:
                alive.add(id(self))
                most.append(len(alive))

        def __del__(self):
            with lock:
                alive.discard(id(self))

    class Heavy(Sum):
        def partial(self, rows):
            return Tracked(super().partial(rows))

        def add(self, first, second):
            time.sleep(0.002)  # the fold is slower than the workers
            first["rows"] += second["rows"]
            return first

    Engine(Numbers(2000), workers=2, group=1).run(Heavy())
    # Twice two in the window, the sum, the one being added, and one in the hands of each worker.
    assert max(most) <= 2 * 2 + 2 + 2


def test_streaming_sources_are_streamed():
    @dataclass(frozen=True)
    class Streamed(Numbers):
        def stream(self, chunks):
            assert len(chunks) <= 4
            return (super(Streamed, self).read(chunk) for chunk in chunks)

        def read(self, chunk):
            raise AssertionError("not read one by one")

    state = Engine(Streamed(95), workers=2, group=4).run(Sum())
    assert torch.equal(state["sum"], Engine(Numbers(95), workers=1, group=4).run(Sum())["sum"])


def test_the_first_bad_row_is_told():
    with pytest.raises(ValueError, match=r"^file\.parquet: row group 3, row 57, column 'x'") as caught:
        Engine(Numbers(400, bad=(333, 57, 199)), workers=4).run(Sum())
    assert "dask" not in str(caught.value).lower()


def test_no_rows():
    with pytest.raises(ValueError, match="no rows"):
        Engine(Numbers(0)).run(Sum())


@pytest.mark.parametrize(("options", "message"), [({"workers": 0}, "`workers` "), ({"group": 0}, "`group` ")])
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        Engine(Numbers(10), **options).run(Sum())


def test_passes_are_counted():
    engine = Engine(Numbers(50), workers=1)
    engine.run(Sum())
    engine.run(Sum("again"), Numbers(20))
    assert engine.passes_run == 2
    assert [(record["name"], record["rows"]) for record in engine.records] == [("sum", 50), ("again", 20)]


def test_threads_are_restored():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    seen = []

    class Look(Sum):
        def partial(self, rows):
            seen.append(torch.get_num_threads())
            return super().partial(rows)

    try:
        Engine(Numbers(50), workers=2).run(Look())
        assert set(seen) == {1}
        assert torch.get_num_threads() == 2
        with pytest.raises(RuntimeError, match="in between"), one_thread():
            raise RuntimeError("in between")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


class Stop(Silent):
    """Interrupts a run after some groups, as Ctrl-C does."""

    def __init__(self, after: int) -> None:
        self.left = after

    def advance(self, rows: int) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.parametrize("after", [1, 7, 39, 40])
def test_interrupted_and_resumed_is_the_same_bits(tmp_path: Path, after: int):
    source = Numbers(400)
    whole = Engine(source, workers=2).run(Sum())
    checkpoint = Checkpoint(tmp_path, {}, every=0.0)
    checkpoint._pause = 0.0
    with pytest.raises(KeyboardInterrupt):
        Engine(source, workers=2, checkpoint=checkpoint, progress=Stop(after)).run(Sum())
    again = Engine(source, workers=3, checkpoint=Checkpoint(tmp_path, {}, resume=True))
    assert torch.equal(again.run(Sum())["sum"], whole["sum"])


def test_an_interrupt_ends_tasks_at_their_next_chunk():
    class Endless(Sum):
        def partial(self, rows):
            time.sleep(0.05)
            return super().partial(rows)

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        Engine(Numbers(2000), workers=2, group=50, progress=Stop(1)).run(Endless())
    # A group takes 2.5 s; the first one is waited for, the others are not.
    assert time.monotonic() - started < 4.5


def test_finished_passes_are_not_run_again(tmp_path: Path):
    engine = Engine(Numbers(50), checkpoint=Checkpoint(tmp_path, {}))
    state = engine.run(Sum())

    class Never(Sum):
        def partial(self, rows):
            raise AssertionError("run again")

    again = Engine(Numbers(50), checkpoint=Checkpoint(tmp_path, {}, resume=True))
    assert torch.equal(again.run(Never())["sum"], state["sum"])
    assert again.passes_run == 1
    again.run(Sum("other"))


def test_json_events(capsys: pytest.CaptureFixture[str]):
    with open_progress(as_json=True) as progress:
        Engine(Numbers(50), workers=1, progress=progress, passes=3, size=1000).run(Sum())
        progress.result(out="run", met=None)
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events][::2] == ["pass_started", "result"]
    assert events[0] == {
        "event": "pass_started",
        "pass": 1,
        "of": 3,
        "name": "sum",
        "rows": 50,
        "done": 0,
        "bytes": 1000,
    }
    assert events[1]["event"] == "pass_finished"
    assert events[1]["done"] == 50
    assert events[1]["bytes_read"] == 1000
    assert events[2] == {"event": "result", "out": "run", "met": None}


def test_json_events_while_rows_go_by(capsys: pytest.CaptureFixture[str]):
    with open_progress(as_json=True) as progress:
        progress._pause = 0.0
        Engine(Numbers(50), workers=1, progress=progress).run(Sum())
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["done"] for event in events if event["event"] == "progress"] == [10, 20, 30, 40, 50]
    assert events[1]["seconds_left"] >= 0


def test_silent_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]):
    with open_progress() as progress:
        Engine(Numbers(50), workers=1, progress=progress).run(Sum())
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_bar_in_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    import sys

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with open_progress() as progress:
        Engine(Numbers(50), workers=1, progress=progress, passes=2, size=5000).run(Sum())
    shown = capsys.readouterr()
    assert "pass 1 of 2: sum" in shown.err
    assert "100%" in shown.err
    assert "5 kB" in shown.err
    assert shown.out == ""


@pytest.fixture(scope="module")
def cluster():
    import distributed

    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=False,
        protocol="tcp://",
        dashboard_address=":0",
        scheduler_kwargs={"dashboard": False},
        silence_logs=logging.CRITICAL,
    ) as cluster:
        yield cluster


def test_a_cluster_gives_the_same_bits(cluster):
    source = Numbers(400)
    here = Engine(source, workers=1).run(Sum())
    there = Engine(source, scheduler=cluster.scheduler_address).run(Sum())
    assert torch.equal(here["sum"], there["sum"])


def test_a_cluster_tells_bad_rows_like_this_process(cluster):
    with pytest.raises(ValueError, match=r"^file\.parquet: row group 3, row 57, column 'x'"):
        Engine(Numbers(400, bad=(57, 200)), scheduler=cluster.scheduler_address).run(Sum())


def test_a_cluster_run_resumes(cluster, tmp_path: Path):
    source = Numbers(400)
    checkpoint = Checkpoint(tmp_path, {}, every=0.0)
    checkpoint._pause = 0.0
    with pytest.raises(KeyboardInterrupt):
        Engine(source, scheduler=cluster.scheduler_address, checkpoint=checkpoint, progress=Stop(11)).run(
            Sum()
        )
    resumed = Engine(source, workers=2, checkpoint=Checkpoint(tmp_path, {}, resume=True)).run(Sum())
    assert torch.equal(resumed["sum"], Engine(source).run(Sum())["sum"])


def test_a_cluster_has_its_own_workers(cluster):
    with pytest.raises(ValueError, match="`workers` "), connect(cluster.scheduler_address, 3):
        pass
    with connect(cluster.scheduler_address) as pool:
        assert pool.count == 2


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense://x"])
def test_no_scheduler_is_told_in_one_line(address: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lemmata.apps.regression_at_scale.engine.scheduler.PATIENCE", 2.0)
    started = time.monotonic()
    with pytest.raises(OSError, match=f"`scheduler` .*{address[-5:]}") as caught, connect(address):
        pass
    assert time.monotonic() - started < 10
    assert "\n" not in str(caught.value)


def test_an_address_has_a_protocol():
    with pytest.raises(ValueError, match="`scheduler` "), connect("localhost:8786"):
        pass


@dataclass(frozen=True)
class Deadly(Sum):
    """Ends its worker's process once."""

    mark: str = ""

    def partial(self, rows: torch.Tensor) -> dict[str, Any]:
        try:
            os.close(os.open(self.mark, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return super().partial(rows)
        os._exit(1)


@pytest.mark.slow
def test_a_worker_that_dies_is_made_up_for(tmp_path: Path):
    import distributed

    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        dashboard_address=":0",
        scheduler_kwargs={"dashboard": False},
        silence_logs=logging.CRITICAL,
    ) as cluster:
        # Workers are other processes, which cannot import this module: send the class itself.
        import cloudpickle

        cloudpickle.register_pickle_by_value(__import__("sys").modules[__name__])
        state = Engine(Numbers(400), scheduler=cluster.scheduler_address).run(
            Deadly(mark=str(tmp_path / "died"))
        )
    assert (tmp_path / "died").exists()
    assert torch.equal(state["sum"], Engine(Numbers(400)).run(Sum())["sum"])
