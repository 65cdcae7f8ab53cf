"""Write docs/claims.md and docs/benchmarks.md from the records in docs/records; ``--check`` only compares."""

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
RECORDS = DOCS / "records"
Record = dict[str, Any]


def main() -> int:
    """Render both pages, or say which one is not what its records say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="exit with 1 where a page differs from its records"
    )
    check = parser.parse_args().check
    pages = {"claims.md": claims_page(load("claims")), "benchmarks.md": benchmarks_page(load("benchmarks"))}
    stale = [name for name, text in pages.items() if not same(DOCS / name, text)]
    if check:
        for name in stale:
            sys.stderr.write(f"docs/{name} is not what docs/records says: run `python docs/render.py`\n")
        return bool(stale)
    for name in stale:
        (DOCS / name).write_text(pages[name])
    return 0


def load(kind: str) -> dict[str, list[Record]]:
    """Read every record of a kind, by package."""
    found: dict[str, list[Record]] = defaultdict(list)
    for path in sorted((RECORDS / kind).glob("*/*.json")):
        found[path.parent.name].append(json.loads(path.read_text()))
    return found


def same(path: Path, text: str) -> bool:
    """Tell whether a page already reads like this."""
    return path.exists() and path.read_text() == text


def claims_page(packages: dict[str, list[Record]]) -> str:
    """One table a package, then what each claim ran and found."""
    lines = [
        "# Claims",
        "",
        "What each paper says, run at small scale against a real baseline.",
        'Generated from the records of `uv run nox -s "claims(<package>)"`.',
    ]
    for package, records in packages.items():
        lines += [
            "",
            f"## lemmata.{package}",
            "",
            "| claim | paper's figure | measured | bar | status |",
            "|---|---|---|---|---|",
        ]
        for record in records:
            title = f"[{cell(record['sentence'])}](#{anchor(record)})"
            measured = "<br>".join(
                cell(f"{bar['quantity']}: {number(bar['value'])}") for bar in record["bars"]
            )
            limits = "<br>".join(f"{bar['relation']} {number(bar['limit'])}" for bar in record["bars"])
            lines.append(
                f"| {title} | {cell(record['published'])} | {measured} | {limits} | **{record['status']}** |"
            )
        for record in records:
            lines += ["", *claim_section(record)]
    if not packages:
        lines += ["", "No claim has been recorded yet."]
    return "\n".join(lines) + "\n"


def claim_section(record: Record) -> list[str]:
    """Set out one claim in full."""
    lines = [
        f"### {record['sentence']} {{#{anchor(record)}}}",
        "",
        f"{record['paper']}. Status: **{record['status']}**.",
        "",
        f"{record['setup']} Baseline: {record['baseline']}.",
        "",
        "| quantity | ours | baseline | value | bar | holds |",
        "|---|---|---|---|---|---|",
    ]
    for bar in record["bars"]:
        figures = " | ".join(number(bar[key]) for key in ("ours", "baseline", "value"))
        held = "yes" if bar["holds"] else "no"
        lines.append(
            f"| {cell(bar['quantity'])} | {figures} | {bar['relation']} {number(bar['limit'])} | {held} |"
        )
    if record["notes"]:
        lines += ["", record["notes"]]
    if record["plot"]:
        lines += ["", f"![{record['sentence']}]({record['plot']})"]
    seeds = f"seeds {', '.join(map(str, record['seeds']))}; " if record["seeds"] else ""
    lines += ["", f"<small>{seeds}{record['seconds']:g} s; {record['date']}; {versions(record)}</small>"]
    return lines


def benchmarks_page(packages: dict[str, list[Record]]) -> str:
    """One table a package: our median time over the peer's, on the same tensors in one run."""
    lines = [
        "# Benchmarks",
        "",
        "Our median time divided by the peer's, on the same tensors, in one run, on one thread: below 1 is",
        'faster. Generated from the records of `uv run nox -s "benchmarks(<package>)"`.',
    ]
    for package, records in packages.items():
        lines += ["", f"## lemmata.{package}"]
        for record in records:
            lines += ["", "| workload | peer | ours / peer | aim |", "|---|---|---|---|"]
            for workload, peer, ratio, aim in ratios(record):
                target = f"<= {number(aim)}" if aim else ""
                lines.append(f"| {cell(workload)} | {cell(peer)} | {number(ratio)} | {target} |")
            lines += ["", f"<small>{record['date']}; {versions(record)}</small>"]
    if not packages:
        lines += ["", "Nothing has been measured yet."]
    return "\n".join(lines) + "\n"


def ratios(record: Record) -> list[tuple[str, str, float, float | None]]:
    """Pair our side of each workload with every peer's."""
    workloads: dict[str, dict[str, Record]] = defaultdict(dict)
    for row in record["rows"]:
        workloads[row["workload"]][row["side"]] = row
    return [
        (workload, peer, sides["lemmata"]["median"] / row["median"], sides["lemmata"]["extra"].get("bar"))
        for workload, sides in workloads.items()
        for peer, row in sides.items()
        if peer != "lemmata"
    ]


def anchor(record: Record) -> str:
    """Return the heading id of a claim."""
    return str(record["name"]).replace("_", "-")


def cell(text: str) -> str:
    """Escape what would end a table cell."""
    return text.replace("|", "\\|").replace("\n", " ")


def number(value: float) -> str:
    """Write a figure with three significant digits."""
    return f"{value:.3g}"


def versions(record: Record) -> str:
    """List the versions a record was measured with."""
    return ", ".join(f"{name} {version}" for name, version in record["versions"].items())


if __name__ == "__main__":
    sys.exit(main())
