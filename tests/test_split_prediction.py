"""Captions of a split by real processes: those of one process, whoever did which, and whatever was killed when."""

import dataclasses
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from launching import free_port, kill, start, wait_until, workers_of
from tiny_split import make_captioner, make_info, make_store

from vivo.config import DecodeConfig
from vivo.data.predictions import constraints_path, n_best_path, read_header, read_predictions
from vivo.data.tag_source import read_tag_file
from vivo.errors import UserError
from vivo.split_captioner import SplitCaptioner
from vivo.split_prediction import Parts, predict_split

COUNT = 61  # odd: the last batch is smaller than the others, and no number of processes divides them
BATCHES = 31
DECODE = DecodeConfig(beam=3, max_tokens=14, min_tokens=14, batch_size=2)
FILES = ["predictions.constraints.jsonl", "predictions.header.json", "predictions.json"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DIR/{regions,captioner,references.json}."""
    folder = tmp_path_factory.mktemp("split")
    ids = [str(7 * number) for number in range(COUNT)]
    make_store(folder / "regions", [*reversed(ids), "100000"])  # the split has an order of its own
    make_captioner(folder / "captioner", folder / "regions")
    make_info(folder / "references.json", ids)
    return folder


def ids_of(made: Path) -> list[str]:
    return [str(image["id"]) for image in json.loads((made / "references.json").read_text())["images"]]


def program(made: Path, out: Path, *overrides: str) -> list[str]:
    """eval/predict.py with the settings of `DECODE`."""
    settings = [f"decode.{name}={getattr(DECODE, name)}" for name in ("beam", "max_tokens", "min_tokens", "batch_size")]
    return [
        "eval/predict.py", "configs/eval/world.yaml", f"checkpoint={made / 'captioner'}", f"regions={made / 'regions'}",
        f"references={made / 'references.json'}", f"out={out}", "timeout=120", *settings, *overrides,
    ]  # fmt: skip


def predicted(made: Path, out: Path, decode: DecodeConfig = DECODE, tags: str = "detector", **more) -> dict[str, str]:
    """By this process."""
    return predict_split(made / "captioner", made / "regions", ids_of(made), tags, decode, out, **more)


@contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def parts(out: Path) -> int:
    return len(list((out / "predictions.parts").glob("*-*.json")))


@pytest.mark.slow
def test_two_nodes_without_a_common_disk_write_what_one_process_writes(made: Path, tmp_path: Path):
    """Every file equal, byte for byte, with tags that the model writes, with constraints and two captions a picture."""
    extra = ["tags=self", "decode.constraints=detector", "decode.min_tokens=0", "n_best=2"]
    one, here, there = (tmp_path / name for name in ("one", "here", "there"))
    port = free_port()
    nodes = [
        start(2, program(made, out, *extra), node=node, nodes=2, port=port) for node, out in enumerate((here, there))
    ]
    said = [node.communicate(timeout=400) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    decode = dataclasses.replace(DECODE, min_tokens=0, constraints="detector")
    with one_thread():  # as each of the others computes: the last bits of scores hang on it
        captions = predicted(made, one / "predictions.json", decode, "self", n_best=2)
    assert set(files_of(one)) == {*FILES, n_best_path(one / "predictions.json").name}
    assert files_of(one) == files_of(here)
    assert list(there.iterdir()) == []
    found = json.loads((one / "predictions.json").read_text())
    assert [record["image_id"] for record in found] == ids_of(made) and len(set(ids_of(made))) == COUNT
    assert [record["caption"] for record in found] == list(captions.values())
    assert len(set(captions.values())) > COUNT / 2
    traces = [json.loads(line) for line in constraints_path(one / "predictions.json").read_text().splitlines()]
    assert [(t["image_id"], t["caption"]) for t in traces] == [(r["image_id"], r["caption"]) for r in found]
    header = read_header(one / "predictions.json")
    assert header["tags"] == "self" and header["constraints"]["constraints"] > 20 and header["pictures"] == COUNT
    assert said[0][0].splitlines()[0] == str(here / "predictions.json") and said[1][0] == ""
    assert f"{COUNT} captions in " in said[0][1] and "by 2 processes" in said[0][1]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds processes in /proc")
def test_killed_and_interrupted_it_goes_on(made: Path, tmp_path: Path):
    """A process of the second of two nodes; then one process by Ctrl-C; then two do the rest."""
    out, port = tmp_path / "out", free_port()
    nodes = [start(2, program(made, out), node=node, nodes=2, port=port) for node in (0, 1)]
    wait_until(lambda: parts(out) >= 3, nodes[1])
    kill(workers_of(nodes[1])[1])
    said = [node.communicate(timeout=400)[1] for node in nodes]
    first = parts(out)
    assert nodes[0].returncode != 0 and nodes[1].returncode != 0, said
    assert "error: process 0 of 2: another process ended before its work was done" in said[0], said[0][-3000:]
    assert 3 <= first < BATCHES and not (out / "predictions.json").exists()

    alone = start(1, program(made, out))
    os.setpriority(os.PRIO_PROCESS, alone.pid, 15)  # on a busy machine it ended before this process had looked
    wait_until(lambda: parts(out) > first, alone)
    alone.send_signal(signal.SIGINT)
    _, errors = alone.communicate(timeout=400)
    second = parts(out)
    assert alone.returncode == 130 and "interrupted; run the same command again" in errors, errors
    assert first < second < BATCHES and not (out / "predictions.json").exists()

    kept = sorted((out / "predictions.parts").glob("*-*.json"))
    kept[0].write_bytes(kept[0].read_bytes()[:-20])  # as a full disk or a crash of the machine may leave it
    stranger = json.loads(kept[1].read_text())
    stranger["records"].reverse()
    kept[1].write_text(json.dumps(stranger))
    there = sum(len(json.loads(file.read_text())["records"]) for file in kept[2:])
    done = start(2, program(made, out))
    output, errors = done.communicate(timeout=400)
    assert done.returncode == 0, errors[-3000:]
    assert f"{there} were there already" in errors
    assert [file.name for file in sorted(out.iterdir())] == FILES[1:]
    captions = predicted(made, tmp_path / "whole" / "predictions.json")
    assert read_predictions(out / "predictions.json") == captions and list(captions) == ids_of(made)


@pytest.mark.slow
def test_a_process_that_cannot_begin_ends_all_and_is_said_once(made: Path, tmp_path: Path):
    make_info(tmp_path / "other.json", ["0", "5", "7"])
    job = start(2, program(made, tmp_path / "out", f"references={tmp_path / 'other.json'}"))
    output, errors = job.communicate(timeout=400)
    said = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert job.returncode != 0 and output == "" and len(said) == 1, errors[-3000:]
    assert "regions: lacks 1 of the 3 pictures to caption (first: 5)" in said[0]
    assert not (tmp_path / "out").exists()


def test_parts_of_other_settings_are_made_anew_and_finished_captions_stay(made: Path, tmp_path: Path, capsys):
    out = tmp_path / "predictions.json"
    other = dataclasses.replace(DECODE, beam=1)
    opened = SplitCaptioner(made / "captioner", made / "regions", ids_of(made), "detector", other)
    begun = Parts(out, opened.request, opened.batches)
    assert begun.begin() == ""
    for number in (0, 3):
        begun.keep(number, opened.caption(opened.batches[number]))
    assert list(begun.read()) == [0, 3]
    captions = predicted(made, out, progress=True)
    told = capsys.readouterr().err
    assert "2 parts of other settings (decode.beam 1, now 3) are made anew" in told and "already" not in told
    assert captions == predicted(made, tmp_path / "fresh" / "predictions.json")
    written = out.stat().st_mtime_ns
    assert predicted(made, out, progress=True) == captions and out.stat().st_mtime_ns == written
    assert "is finished" in capsys.readouterr().err

    again = predicted(made, out, other)  # other settings take the place of what is finished
    assert again != captions and read_header(out)["decode"]["beam"] == 1
    out.write_text(out.read_text().replace('"image_id": "7"', '"image_id": "8"'))
    assert predicted(made, out, other) == again == read_predictions(out)
    assert not (tmp_path / "predictions.parts").exists()


def test_n_best_captions_are_in_the_parts_and_belong_to_what_is_finished(made: Path, tmp_path: Path, capsys):
    """The file of each picture's captions is whole in the split's order, made again where it is lost, and removed."""
    out, ids = tmp_path / "predictions.json", ids_of(made)[:9]
    given = (made / "captioner", made / "regions", ids, "detector", DECODE)
    opened = SplitCaptioner(*given, n_best=2)
    begun = Parts(out, opened.request, opened.batches)
    begun.begin()
    for number in (0, 1, 4):
        begun.keep(number, opened.caption(opened.batches[number]))
    damaged = json.loads(begun._file(1).read_text())
    damaged["n_best"].reverse()  # of other pictures
    begun._file(1).write_text(json.dumps(damaged))
    assert list(begun.read()) == [0, 4]
    captions = predict_split(*given, out, n_best=2, progress=True)
    assert "3 were there already" in capsys.readouterr().err  # a whole batch of two, and the last of one
    several = n_best_path(out).read_bytes()
    rows = [json.loads(line) for line in several.splitlines()]
    assert {row["image_id"]: row["captions"][0]["caption"] for row in rows} == captions
    assert [row["image_id"] for row in rows] == ids and {len(row["captions"]) for row in rows} == {2}

    assert predict_split(*given, out, n_best=2, progress=True) == captions and "is finished" in capsys.readouterr().err
    n_best_path(out).unlink()
    predict_split(*given, out, n_best=2, progress=True)
    assert "is finished" not in capsys.readouterr().err and n_best_path(out).read_bytes() == several
    assert predict_split(*given, out, progress=True) == captions  # without n_best it is another request
    assert "is finished" not in capsys.readouterr().err and not n_best_path(out).exists()


def test_what_captions_hang_on_is_seen_by_content(made: Path, tmp_path: Path):
    """The same tags under another name are the same request; other tags under the same name are not."""
    lines = [json.dumps({"image_id": i, "tags": ["dog"]}) for i in ids_of(made)]
    given = (made / "captioner", made / "regions", ids_of(made), "file", DECODE)

    def request(path: Path, text: str) -> dict:
        path.write_text(text)
        return SplitCaptioner(*given, tag_file=str(path)).request

    first = request(tmp_path / "a.jsonl", "\n".join(lines))
    assert request(tmp_path / "b.jsonl", "\n".join(lines)) == first
    assert request(tmp_path / "a.jsonl", "\n".join(lines).replace("dog", "cat")) != first
    assert read_tag_file(tmp_path / "a.jsonl")("0", [], None) == ["cat"]
    assert SplitCaptioner(*given[:3], "none", DECODE).request != first
    reversed_ids = SplitCaptioner(*given[:2], ids_of(made)[::-1], "none", DECODE).request
    assert reversed_ids != SplitCaptioner(*given[:3], "none", DECODE).request


def test_precision_is_told_and_fp16_without_a_gpu_is_refused(made: Path, tmp_path: Path):
    half = predicted(made, tmp_path / "half" / "predictions.json", precision="bf16")
    whole = predicted(made, tmp_path / "whole" / "predictions.json")
    assert list(half) == list(whole) and read_header(tmp_path / "half" / "predictions.json")["precision"] == "bf16"
    scores = [
        [record["score"] for record in json.loads((tmp_path / name / "predictions.json").read_text())]
        for name in ("half", "whole")
    ]
    assert scores[0] != scores[1] and scores[0] == pytest.approx(scores[1], rel=0.2)
    if not os.path.exists("/dev/nvidia0"):
        with pytest.raises(UserError, match="precision: fp16 needs a GPU"):
            predicted(made, tmp_path / "no" / "predictions.json", precision="fp16")


def test_a_second_command_in_the_folder_is_refused(made: Path, tmp_path: Path):
    out = tmp_path / "predictions.json"
    predicted(made, tmp_path / "other.json")
    from vivo.files import lock_folder

    (tmp_path / "predictions.parts").mkdir()
    held = lock_folder(tmp_path / "predictions.parts", "these captions")
    with pytest.raises(UserError, match="another process is writing these captions; wait for it"):
        predicted(made, out)
    os.close(held)
    assert list(predicted(made, out)) == ids_of(made)
