"""Partition files: both forms, and each thing that can be wrong with one."""

from pathlib import Path

import pytest

from vivo.data.partition import read_partition, with_partition
from vivo.data.types import CaptionExample
from vivo.errors import UserError

SPLIT = [CaptionExample(image_id, f"{image_id}.jpg", ["a dog"], "in-domain") for image_id in ("0", "1", "42")]
EXPECTED = ["near-domain", "in-domain", "out-domain"]


@pytest.mark.parametrize(
    "content",
    [
        '{"1": "in-domain", "0": "near-domain", "42": "out-domain"}',
        '\ufeff  {"000000000001": "in", "0": "near", "42": "out"}',
        "image_id,domain\n1,in-domain\n0,near-domain\n42,out-domain\n",
        "\ufeffimage_id, domain\r\n1, in\r\n0 ,near\r\n42,out",
    ],
)
def test_both_forms(tmp_path: Path, content: str) -> None:
    path = tmp_path / "partition"
    path.write_text(content, encoding="utf-8", newline="")
    found = with_partition(SPLIT, path)
    assert [e.domain for e in found] == EXPECTED
    assert [(e.image_id, e.captions) for e in found] == [(e.image_id, e.captions) for e in SPLIT]
    assert SPLIT[0].domain == "in-domain"  # nothing is changed in place


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "line 1: expected image_id,domain"),
        ("0,in\n", "line 1: expected image_id,domain .*found '0,in'"),
        ("image_id,domain\n", "names no picture"),
        ("image_id,domain\n0,in,1\n", "line 2: expected 2 cells .*found 3"),
        ("image_id,domain\n0,in\n\n1,in\n", "line 3: expected 2 cells .*found 0"),
        ("image_id,domain\n0,in\n00,near\n", "line 3: picture 0 is there twice"),
        ("image_id,domain\n0,inside\n", "line 2: domain must be one of in-domain, .*found 'inside'"),
        ('{"0": "in"', "not JSON"),
        ('["in"]', "a list, expected an object"),
        ('{"0": "in", "0": "out"}', "picture 0: picture 0 is there twice"),
        ('{"0": 3}', "picture 0: domain must be one of .*found 3"),
        ('{"0": {"domain": "in"}}', "picture 0: domain must be one of"),
        ('{"0": NaN}', "found nan"),
        ("{}", "names no picture"),
        ('{"0": "in", "1": "in"}', "no domain for 1 of 3 pictures .first: 42."),
        ('{"0": "in", "1": "in", "42": "out", "43": "out"}', "1 pictures are not of this split .one is 43."),
    ],
)
def test_each_fault_is_one_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "partition"
    path.write_text(content)
    with pytest.raises(UserError, match=message) as error:
        with_partition(SPLIT, path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_partition(tmp_path / "none.csv")
