"""docs/benchmarks.md holds what the kept results say, and the benchmark programs run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "benchmarks"))

from tables import DOCS, KEPT, filled, table  # noqa: E402


def kept() -> dict[str, dict]:
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in KEPT.glob("*.json")}


def test_the_page_is_what_the_program_makes_of_the_results():
    page = DOCS.read_text(encoding="utf-8")
    assert filled(page, kept()) == page
    assert all(f"<!-- results: {name} -->" in page for name in kept())


def test_ratios_are_of_their_figures_and_a_missed_goal_is_bold():
    for name, run in kept().items():
        assert {"machine", "commit", "date", "versions"} <= run.keys(), name
        for row in run["rows"]:
            assert list(row) == ["name", "ours", "rival", "unit", "ratio", "goal", "limit"]
            more, less = row["ours"] / row["rival"], row["rival"] / row["ours"]
            assert row["ratio"] in (pytest.approx(more, rel=1e-3), pytest.approx(less, rel=1e-3)), row["name"]
    row = {"name": "x", "ours": 2.0, "rival": 1.0, "unit": "s", "ratio": 2.0, "goal": 3.0, "limit": None}
    run = {
        "machine": "m",
        "versions": {},
        "date": "2026-01-01",
        "commit": "c",
        "repeats": "",
        "notes": {"spread/x": [1, 3]},
    }
    assert "| x | 2 | 1 | s | **2 (1 to 3)** | 3 | - |" in table(run | {"rows": [row]})


@pytest.mark.parametrize("program, sections", [("cpu.py", ""), ("gpu.py", "matching scst extraction")])
def test_a_benchmark_runs_on_small_shapes(program, sections, tmp_path):
    command = [sys.executable, str(ROOT / "tests" / "benchmarks" / program), "--tiny", "--only", *sections.split()]
    done = subprocess.run([*command, "--out", str(tmp_path / "r.json")], capture_output=True, text=True, timeout=300)
    notes = json.loads((tmp_path / "r.notes.json").read_text())
    assert done.returncode == 0 and not [name for name in notes if name.endswith("/error")], done.stderr + str(notes)
    rows = json.loads((tmp_path / "r.json").read_text())
    assert rows and all(row["ours"] > 0 and (row["limit"] is None or row["limit"] > 0) for row in rows)


def test_how_cost_grows_is_drawn_from_its_points():
    import growth

    points = json.loads(growth.POINTS.read_text(encoding="utf-8"))
    page = growth.PAGE.read_text(encoding="utf-8")
    assert growth.written(page, growth.table(points), "growth.py") == page and f"]({growth.CHART.name})" in page
    assert growth.drawn(points) == growth.CHART.read_text(encoding="utf-8")


def test_a_slope_is_that_of_the_logarithms():
    from growth_chart import chart, fitted

    assert fitted([1, 10, 100], [3.0, 300.0, 30_000.0]) == (pytest.approx(2.0), pytest.approx(3.0))
    panel = {"title": "t", "axis": "a", "x": [1, 10], "seconds": [1.0, 10.0], "flops": [1.0, 100.0]}
    drawn = chart([panel])
    assert "slope 1.00" in drawn and "of FLOPs 2.00" in drawn
