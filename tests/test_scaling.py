"""docs/scaling.md: its tables are those of the program, the program's arithmetic is right, its constants can be had."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

BENCHMARKS = Path(__file__).resolve().parent / "benchmarks"


@pytest.fixture
def scaling(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import scaling

    return scaling


def test_the_page_has_the_tables_of_the_program(scaling):
    page = scaling.PAGE.read_text()
    assert scaling.written(page, scaling.tables(json.loads(scaling.CONSTANTS.read_text()))) == page


def test_the_picture_is_that_of_the_program(scaling):
    """Linked by the page, drawn from its constants; bars by hand: half of the need, a fourth of the longest step."""
    assert f"]({scaling.CHART.name})" in scaling.PAGE.read_text() and scaling.CHART.stat().st_size < 200_000
    assert scaling.drawn(json.loads(scaling.CONSTANTS.read_text())) == scaling.CHART.read_text()

    steps = {"label": "8 GPUs\nbatch 1", "compute": 4e-3, "reduce": 1e-3, "data": 2e-3}
    root = ElementTree.fromstring(scaling.chart([("disk", 500.0), ("cores", 2000.0)], 1000.0, [steps]))
    bars = {r.get("class"): r for r in root.iter("{http://www.w3.org/2000/svg}rect") if r.get("class")}
    width = {name: float(bar.get("width", 0)) for name, bar in bars.items()}
    left = {name: float(bar.get("x", 0)) for name, bar in bars.items()}
    assert width["below"] == pytest.approx(width["above"], abs=0.2)  # a factor of two to either side
    assert left["below"] + width["below"] == pytest.approx(left["above"], abs=0.2)  # meeting at the need
    assert width["matmul"] == pytest.approx(4 * width["reduce"], abs=0.3) == pytest.approx(2 * width["data"], abs=0.3)
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"disk", "500 (0.50x)", "2,000 (2.00x)", "needed: 1,000", "4.0", "8 GPUs", "batch 1"} <= set(texts)


def test_a_row_by_hand(scaling):
    """Round constants: 100 kB on disk, 1 ms of CPU for each part, 1 GFLOP; 1,024 pictures on 16 GPUs."""
    constants = {"picture_bytes": 1e5, "batch_picture_bytes": 4e5, "flops_of_a_picture": 1e9}
    constants |= {f"{part}_seconds": 1e-3 for part in ("read", "collate", "receive")}
    row = scaling.scenario(constants, 1_000_000, 16, 1024)
    assert (row["per_gpu"], row["read"], row["cached"]) == (64, 512 * 1e5, True)
    assert row["wire"] == pytest.approx(2 * 15 / 16 * 4 * 111.1e6, rel=1e-3)
    assert row["reduce"] == pytest.approx(row["wire"] / 50e9)
    assert row["compute"] == pytest.approx(64e9 / (989e12 * 0.4))
    # 8 processes receive 8,000 pictures a second, less than 112 cores make (56,000) or drives read (552,000)
    assert scaling.data_path(constants, cached=False) == ("training processes", pytest.approx(8000))
    assert row["step"] == row["data"] == pytest.approx(512 / 8000)
    assert row["epoch_seconds"] == pytest.approx(1_000_000 / 1024 * 512 / 8000)
    assert not scaling.scenario(constants, 100_000_000, 8, 1024)["cached"]  # 20.7 TB


@pytest.mark.slow
def test_constants_are_measured(scaling, tmp_path: Path):
    """The benchmark of the data path on a few pictures, and FLOPs: 6 a weight and token, and attention."""
    found = scaling.measure(tmp_path, 40, 8, 1)
    assert all(value > 0 for value in found.values()) and found["picture_bytes"] == pytest.approx(207e3, rel=0.02)
    layers, tokens, width = 12, 65, 768
    by_hand = 6 * tokens * (11 / 12) * layers * 12 * width * width  # the last layer computes little
    assert scaling.flops_of_a_picture() == pytest.approx(by_hand, rel=0.1)
