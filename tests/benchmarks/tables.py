"""The tables of docs/benchmarks.md from measured results; what is written by hand around them stays.

    python tests/benchmarks/tables.py                                      anew from tests/benchmarks/results/*.json
    python tests/benchmarks/tables.py --keep runs/bench/results.json cpu   first keep a run's results there as cpu.json

A table stands between `<!-- results: NAME -->` and `<!-- end -->`. Results that are kept are one file a run: machine,
commit, date, versions, `rows` and `notes` as tests/benchmarks/results.py writes them; a note "spread/ROW" holds the
ratios of the repeats.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DOCS, KEPT = HERE.parents[1] / "docs" / "benchmarks.md", HERE / "results"
MISSING = "Not measured."


def number(value: float | None) -> str:
    """Three digits, at least."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def table(kept: dict[str, Any]) -> str:
    """One run as Markdown: a line that says of what, and its rows."""
    versions = ", ".join(f"{name} {version}" for name, version in kept["versions"].items())
    lines = [
        f"{kept['machine']}, {versions}, {kept['date'][:10]}, commit {kept['commit']}; {kept['repeats']}.",
        "",
        "| work | ours | rival | unit | ratio | goal | limit of ours |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in kept["rows"]:
        ratio, goal = row["ratio"], row["goal"]
        spread = kept["notes"].get(f"spread/{row['name']}")
        shown = number(ratio) + (f" ({number(min(spread))} to {number(max(spread))})" if spread else "")
        if goal is not None and ratio is not None and ratio < goal:
            shown = f"**{shown}**"
        cells = [row["name"], number(row["ours"]), number(row["rival"]), row["unit"], shown, number(goal)]
        lines.append("| " + " | ".join([*cells, number(row["limit"])]) + " |")
    return "\n".join(lines)


def filled(text: str, results: dict[str, dict[str, Any]]) -> str:
    """A page with its tables made anew."""

    def made(found: re.Match[str]) -> str:
        name = found.group(1)
        return f"<!-- results: {name} -->\n{table(results[name]) if name in results else MISSING}\n<!-- end -->"

    return re.sub(r"<!-- results: (\w+) -->\n.*?<!-- end -->", made, text, flags=re.S)


def keep(file: Path, name: str) -> None:
    """A run's rows and notes as one file."""
    notes = json.loads(file.with_suffix(".notes.json").read_text(encoding="utf-8"))
    about = {key: notes.pop(key) for key in ("machine", "commit", "date", "versions", "repeats")}
    rows = json.loads(file.read_text(encoding="utf-8"))
    text = json.dumps(about | {"rows": rows, "notes": notes}, indent=1)
    (KEPT / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", nargs=2, metavar=("FILE", "NAME"), help="results of a run, and their name")
    if kept := parser.parse_args().keep:
        keep(Path(kept[0]), kept[1])
    results = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(KEPT.glob("*.json"))}
    DOCS.write_text(filled(DOCS.read_text(encoding="utf-8"), results), encoding="utf-8")


if __name__ == "__main__":
    main()
