"""Write docs/claims.md, docs/benchmarks.md and the README's claims from docs/records; `--check` compares."""

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
RECORDS = DOCS / "records"
README = DOCS.parent / "README.md"
BEGIN, END = "<!-- claims: written by docs/render.py -->", "<!-- end of claims -->"
Record = dict[str, Any]


def main() -> int:
    """Render every page, or say which one is not what its records say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="exit with 1 where a page differs from its records"
    )
    check = parser.parse_args().check
    claims, benchmarks = load("claims"), load("benchmarks")
    pages = {
        DOCS / "claims.md": claims_page(claims),
        DOCS / "benchmarks.md": benchmarks_page(benchmarks),
        README: with_claims(README.read_text(), claims),
    }
    stale = [path for path, text in pages.items() if not same(path, text)]
    if check:
        for path in stale:
            sys.stderr.write(f"{path.name} is not what docs/records says: run `python docs/render.py`\n")
        return bool(stale)
    for path in stale:
        path.write_text(pages[path])
    for package, records in benchmarks.items():
        plot_ratios(package, records)
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
        lines += ["", f"## {heading(package)}", "", *summary(records, page="")]
        for record in records:
            lines += ["", *claim_section(record)]
    if not packages:
        lines += ["", "No claim has been recorded yet."]
    return "\n".join(lines) + "\n"


def with_claims(readme: str, packages: dict[str, list[Record]]) -> str:
    """Return the README with its table of claims written anew."""
    tables = [
        f"**{package}**\n\n" + "\n".join(summary(records, "docs/claims.md"))
        for package, records in packages.items()
    ]
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return "\n\n".join([f"{before}{BEGIN}", *tables, f"{END}{after}"])


def summary(records: list[Record], page: str) -> list[str]:
    """Return a table with a row a claim: its first figure beside the baseline's, and how many bars hold."""
    rows = [
        "| claim | paper's figure | measured first | ours | baseline | bars held | status |",
        "|---|---|---|---|---|---|---|",
    ]
    for record in records:
        first, held = record["bars"][0], sum(bar["holds"] for bar in record["bars"])
        cells = (
            f"[{cell(record['sentence'])}]({page}#{anchor(record)})",
            cell(record["published"]),
            cell(first["quantity"]),
            number(first["ours"]),
            number(first["baseline"]),
            f"{held} of {len(record['bars'])}",
            f"**{record['status']}**",
        )
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def claim_section(record: Record) -> list[str]:
    """Set out one claim in full."""
    lines = [
        f"### {record['sentence']} {{#{anchor(record)}}}",
        "",
        f"{record['paper']}. Status: **{record['status']}**.",
        "",
        f"Set-up: {record['setup'].rstrip('.')}. Baseline: {record['baseline']}.",
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
        lines += ["", f"## {heading(package)}", "", f"![Ratios of medians](plots/benchmarks/{package}.svg)"]
        for record in records:
            lines += ["", "| workload | peer | ours / peer | aim | ours, besides |", "|---|---|---|---|---|"]
            for workload, peer, ratio, extra in ratios(record):
                lines.append(
                    f"| {cell(workload)} | {cell(peer)} | {number(ratio)} | {aim(extra)} | {besides(extra)} |"
                )
            lines += ["", f"<small>{record['date']}; {versions(record)}</small>"]
    if not packages:
        lines += ["", "Nothing has been measured yet."]
    return "\n".join(lines) + "\n"


def aim(extra: Record) -> str:
    """State the ratio aimed at, where there is one."""
    return f"<= {number(extra['bar'])}" if extra.get("bar") else ""


def besides(extra: Record) -> str:
    """List what our side noted besides the time: bytes of state, native number formats."""
    noted = {name: value for name, value in extra.items() if name != "bar"}
    return cell(
        "; ".join(
            f"{name.replace('_', ' ')} {number(value) if isinstance(value, float) else value}"
            for name, value in noted.items()
        )
    )


def ratios(record: Record) -> list[tuple[str, str, float, Record]]:
    """Pair our side of each workload with every peer's, and with what our side noted."""
    workloads: dict[str, dict[str, Record]] = defaultdict(dict)
    for row in record["rows"]:
        workloads[row["workload"]][row["side"]] = row
    return [
        (workload, peer, sides["lemmata"]["median"] / row["median"], sides["lemmata"]["extra"])
        for workload, sides in workloads.items()
        for peer, row in sides.items()
        if peer != "lemmata"
    ]


def plot_ratios(package: str, records: list[Record]) -> None:
    """Draw every ratio of a package on a logarithmic axis, with the aim where there is one."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    rows = [row for record in records for row in ratios(record)][::-1]
    names = [f"{workload.split(':')[0]}\nagainst {peer}" for workload, peer, _, _ in rows]
    with mpl.rc_context({"svg.hashsalt": package, "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(8, 0.8 + 0.42 * len(rows)), layout="constrained")
        axes = figure.subplots()
        axes.barh(names, [ratio for _, _, ratio, _ in rows], height=0.55, color="#4477aa")
        for place, (_, _, _, extra) in enumerate(rows):
            if bar := extra.get("bar"):
                axes.plot([bar, bar], [place - 0.4, place + 0.4], color="#222222")
        axes.axvline(1.0, color="#cc3311", linewidth=1)
        axes.set(xscale="log", xlabel="our median time / the peer's (red: equal; black: the aim)")
        path = DOCS / "plots" / "benchmarks" / f"{package}.svg"
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})


def heading(member: str) -> str:
    """Name a package by its import, an app by its command."""
    return f"lemmata.{member}" if (DOCS.parent / "packages" / member).is_dir() else member


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
