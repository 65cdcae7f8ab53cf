"""Fixtures shared by every test, claim and benchmark of the workspace."""

import datetime as dt
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent
FINDINGS = pytest.StashKey[list[str]]()
RECORDS = ROOT / "docs" / "records"
PLOTS = ROOT / "docs" / "plots"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let claims over seeds, splits or sweeps run on request."""
    parser.addoption("--full", action="store_true", help="run claims marked `long` too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave long claims to ``--full``; their committed record stands meanwhile."""
    if not config.getoption("--full"):
        long = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


def pytest_configure(config: pytest.Config) -> None:
    """Collect what claims and benchmarks find, for the end of the run."""
    config.stash[FINDINGS] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print what claims and benchmarks found."""
    if config.stash[FINDINGS]:
        terminalreporter.section("findings")
        for line in config.stash[FINDINGS]:
            terminalreporter.write_line(line)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Give every test the same random numbers, whatever ran before it."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Switch run-time shape checks off, for tests that compile with ``fullgraph=True``."""
    import jaxtyping

    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture
def real_data() -> Any:
    """Return a function from a file's name in the data cache to its path; skip where it is absent."""
    cache = Path(os.environ.get("LEMMATA_DATA", ROOT.parent / "shared" / "data"))

    def find(name: str) -> Path:
        if not (cache / name).exists():
            pytest.skip(f"{name} is not in the data cache that LEMMATA_DATA names")
        return cache / name

    return find


@dataclass(frozen=True)
class Bar:
    """One figure of a claim beside its baseline's, and what it must reach."""

    quantity: str
    ours: float
    baseline: float
    value: float
    relation: str
    limit: float
    holds: bool


@dataclass
class Claim:
    """Records what a claim found: what the paper says, what was run, our figure, the baseline's, the bar."""

    package: str
    name: str
    findings: list[str]
    started: float = field(default_factory=time.perf_counter)
    recorded: bool = False

    @staticmethod
    def bar(
        quantity: str,
        *,
        ours: float,
        baseline: float,
        value: float,
        at_most: float | None = None,
        at_least: float | None = None,
    ) -> Bar:
        """State that ``value``, made from our figure and the baseline's, is at most or at least a limit."""
        if (at_most is None) == (at_least is None):
            raise TypeError("a bar takes exactly one of `at_most` and `at_least`")
        if at_most is not None:
            return Bar(
                quantity, float(ours), float(baseline), float(value), "<=", at_most, bool(value <= at_most)
            )
        assert at_least is not None
        return Bar(
            quantity, float(ours), float(baseline), float(value), ">=", at_least, bool(value >= at_least)
        )

    def __call__(
        self,
        *,
        sentence: str,
        paper: str,
        published: str,
        setup: str,
        baseline: str,
        bars: Sequence[Bar],
        seeds: Sequence[int] = (),
        figure: Any = None,
        notes: str = "",
    ) -> None:
        """Write the record, and fail where a bar does not hold."""
        held = [bar.holds for bar in bars]
        if not held:
            raise TypeError("a claim needs at least one bar")
        status = "holds" if all(held) else "holds in part" if any(held) else "does not hold here"
        record = {
            "package": self.package,
            "name": self.name,
            "sentence": sentence,
            "paper": paper,
            "published": published,
            "setup": setup,
            "baseline": baseline,
            "bars": [asdict(bar) for bar in bars],
            "status": status,
            "seeds": list(seeds),
            "notes": notes,
            "plot": self._save(figure),
            "seconds": round(time.perf_counter() - self.started, 1),
            "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
            "versions": versions(self.package),
        }
        folder = RECORDS / "claims" / self.package
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.name}.json").write_text(json.dumps(record, indent=2) + "\n")
        self.recorded = True
        self.findings.append(f"{self.name}: {status}")
        self.findings += [
            f"    {bar.quantity}: {bar.value:.3g} (ours {bar.ours:.3g}, baseline {bar.baseline:.3g}), "
            f"bar {bar.relation} {bar.limit:g}: {'holds' if bar.holds else 'missed'}"
            for bar in bars
        ]
        missed = [
            f"{bar.quantity}: {bar.value:.4g}, not {bar.relation} {bar.limit:g}"
            for bar in bars
            if not bar.holds
        ]
        if missed:
            pytest.fail(f"{status}: " + "; ".join(missed), pytrace=False)

    def _save(self, figure: Any) -> str | None:
        if figure is None:
            return None
        import matplotlib as mpl

        path = PLOTS / "claims" / self.package / f"{self.name}.svg"
        path.parent.mkdir(parents=True, exist_ok=True)
        with mpl.rc_context({"svg.hashsalt": self.name, "svg.fonttype": "none"}):
            figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
        return path.relative_to(ROOT / "docs").as_posix()


@pytest.fixture
def claim(request: pytest.FixtureRequest) -> Iterator[Claim]:
    """Record a claim's outcome in ``docs/records``; a claim that records nothing fails."""
    findings = request.config.stash[FINDINGS]
    recorder = Claim(package=_member(request.path), name=request.node.name, findings=findings)
    yield recorder
    outcome = getattr(request.node, "call_outcome", None)
    if outcome == "passed" and not recorder.recorded:
        pytest.fail("the claim did not call `claim(...)`", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Tell the ``claim`` fixture how its test ended."""
    report = yield
    if report.when == "call":
        item.call_outcome = report.outcome  # type: ignore[attr-defined]
    return report


@pytest.fixture(autouse=True)
def _one_thread_for_benchmarks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Measure both sides of a benchmark on one thread."""
    if "benchmark" not in request.fixturenames:
        yield
        return
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write what the benchmarks measured to ``docs/records``, a file a module."""
    measured = getattr(getattr(session.config, "_benchmarksession", None), "benchmarks", None) or []
    modules: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in measured:
        if run.params and "side" in run.params and not run.has_error:
            path = Path(run.fullname.split("::")[0])
            modules.setdefault((_member(path), path.stem), []).append(
                {
                    "workload": run.group,
                    "side": run.params["side"],
                    "median": run.stats.median,
                    "iqr": run.stats.iqr,
                    "rounds": run.stats.rounds,
                    "extra": dict(run.extra_info),
                }
            )
    for (package, module), rows in modules.items():
        record = {
            "package": package,
            "module": module,
            "threads": 1,
            "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
            "versions": versions(package),
            "rows": rows,
        }
        folder = RECORDS / "benchmarks" / package
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{module}.json").write_text(json.dumps(record, indent=2) + "\n")
        medians = {(row["workload"], row["side"]): row["median"] for row in rows}
        session.config.stash[FINDINGS] += [
            f"{workload}: {medians[workload, 'lemmata'] / median:.3g} of the time of {side}"
            for (workload, side), median in medians.items()
            if side != "lemmata"
        ]


def versions(package: str) -> dict[str, str]:
    """Return the versions a figure was measured with."""
    found = {"python": platform.python_version()}
    for name in (f"lemmata-{package}", "torch", "numpy", "scipy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _member(path: Path) -> str:
    """Return the member whose folder a file lies in."""
    parts = (ROOT / path).relative_to(ROOT).parts
    return parts[1]
