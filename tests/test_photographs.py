"""`vivo novel`: a whole run on tags that the model writes itself, and what is refused before anything is trained."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from novel_benchmark import (
    DETECTOR,
    FEATURES,
    add_stores_and_tagger,
    captioned_pictures,
    listed,
    made_store,
    small_split,
)

from vivo.config import load_config
from vivo.data.datasets import CaptionPictures
from vivo.data.examples import read_caption_examples
from vivo.data.novel_files import read_hashes
from vivo.data.region_format import sha256_of
from vivo.data.regions import RegionStore, RegionStoreWriter
from vivo.data.tag_source import TagSource
from vivo.detectors.tagger import WRITTEN
from vivo.errors import UserError
from vivo.experiment import stages
from vivo.experiment.benchmark import Benchmark
from vivo.experiment.photograph_checks import check_photographs, check_stores_apart
from vivo.experiment.photographs import photograph_benchmark, run_novel
from vivo.experiment.plan import VIVO
from vivo.self_tagging import VOCABULARY, open_tag_source
from vivo.training.runs import pretrain

CONFIG = "flickr_novel.yaml"
FEW = [f"optim.{key}" for key in ("duration=2 steps", "warmup=1 steps", "batch_size=4", "precision=fp32")]
SMALL = [*FEW, "model.layers=1", "model.max_regions=5", "data.captions_per_picture=1"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A benchmark whose image-tag pairs are apart from fine-tuning, with stores and tagger; the pictures beside it."""
    folder = tmp_path_factory.mktemp("photographs")
    assert small_split(captioned_pictures(folder), folder / "made", "--pairs", "apart") == 0
    add_stores_and_tagger(folder / "made")
    return folder / "made"


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy to be changed."""
    return shutil.copytree(made, tmp_path / "benchmark")


def bench_of(folder: Path, tags: str = "file") -> Benchmark:
    return photograph_benchmark(folder, folder.parent / "images", CONFIG, tags, tuple(SMALL))


def refusal(folder: Path, tags: str = "file") -> str:
    """The one line that the checks refuse a benchmark with."""
    with pytest.raises(UserError) as refused:
        check_photographs(bench_of(folder, tags), folder)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.slow
def test_tags_of_its_own_model(made: Path, tmp_path: Path) -> None:
    """All rows of a seed see the tags of one model, VIVO's after pre-training; other tags need a new folder."""
    out = tmp_path / "out"
    out.mkdir()
    run_novel(made, out, made.parent / "images", CONFIG, 1, "self", SMALL)
    results = json.loads((out / "results.json").read_text())
    assert [row["name"] for row in results["rows"]][:3] == ["none", "vivo", "none_unfrozen"] and results[
        "tags"
    ] == "self"
    assert results["inputs"] == json.loads((out / "experiment.json").read_text())
    assert results["inputs"]["tags"] == "self" and results["inputs"]["finetune"]["optim"]["duration"] == "2 steps"
    tagger = out / "rows" / "vivo" / "seed0" / "pretrain" / "model"
    words = (tagger / VOCABULARY).read_text()
    for model in ("none", "vivo", "none_unfrozen"):
        run = out / "rows" / model / "seed0"
        assert load_config(run / "finetune" / "config.yaml").data.tagger == str(tagger)
        assert (run / "finetune" / "model" / "tagger" / VOCABULARY).read_text() == words
        assert json.loads((run / "predictions.header.json").read_text())["tags"] == "self"
    ids = listed(made / "evaluation_pictures.tsv")
    own = open_tag_source("self", RegionStore(made / "regions" / "evaluation"), ids, tagger=tagger)
    copied = json.loads((out / "rows" / "copy" / "seed0" / "predictions.json").read_text())
    assert [row["image_id"] for row in copied] == ids
    for row in copied:
        said = [word for word in row["caption"].removeprefix("a photo of ").split(" and ") if word != "something"]
        assert [word.split(" ", 1)[1] for word in said] == own(row["image_id"], [], None)
    with pytest.raises(UserError, match="tags was self and is none now; choose another --out"):
        run_novel(made, out, made.parent / "images", CONFIG, 1, "none", SMALL)


def test_a_whole_benchmark_passes(made: Path) -> None:
    for tags in ("file", "self", "none"):
        check_photographs(bench_of(made, tags), made)


def test_own_tags_need_pairs_apart(folder: Path) -> None:
    record = json.loads((folder / "split.json").read_text())
    record["options"]["pairs"] = "all"
    (folder / "split.json").write_text(json.dumps(record))
    assert "make the split with --pairs apart" in refusal(folder, "self")
    check_photographs(bench_of(folder, "file"), folder)
    (folder / "split.json").write_text("{}")
    assert "split.json: damaged" in refusal(folder, "self")


def test_pictures_to_caption_and_their_files_are_checked_before_training(folder: Path, made: Path) -> None:
    def refused(pictures: Path) -> str:
        with pytest.raises(UserError) as error:
            run_novel(folder, folder.parent / "out", pictures, CONFIG, 1, "file", SMALL)
        return str(error.value)

    shown = listed(folder / "evaluation_pictures.tsv")
    assert f"lacks {len(shown)} of {len(shown)} evaluation pictures" in refused(folder.parent / "none")
    info = json.loads((folder / "nocaps_val_image_info.json").read_text())
    del info["images"][-1]
    (folder / "nocaps_val_image_info.json").write_text(json.dumps(info))
    assert "list different pictures; make the split again" in refused(made.parent / "images")
    (folder / "nocaps_val_image_info.json").unlink()
    assert "nocaps_val_image_info.json: is missing; make the split again" in refused(made.parent / "images")


def test_stores_that_share_a_picture_are_refused(folder: Path, tmp_path: Path) -> None:
    training, shown = listed(folder / "training_pictures.tsv"), listed(folder / "evaluation_pictures.tsv")[0]
    bench = bench_of(folder)
    stores = {
        "same": made_store(tmp_path / "same", [*training, shown]),
        "twin": made_store(tmp_path / "twin", [*training, "copy-of-it"]),
        "other": made_store(tmp_path / "other", training, {"name": "another"}),
    }
    hashes = read_hashes(folder / "pictures.jsonl")
    hashes["copy-of-it"] = hashes[shown]
    for name, message in (
        ("same", f"same: holds 1 evaluation pictures \\(first: {shown}\\)"),
        (
            "twin",
            f"twin: 1 pictures have the content of an evaluation picture \\(first: copy-of-it, equal to {shown}\\)",
        ),
        ("other", "from detector"),
    ):
        with pytest.raises(UserError, match=message):
            check_stores_apart(replace(bench, pair_regions=stores[name]), hashes)
    del hashes["copy-of-it"]
    check_stores_apart(replace(bench, pair_regions=stores["twin"]), hashes)  # it was the content that told
    evaluation = RegionStore(bench.evaluation_regions)
    with RegionStoreWriter(tmp_path / "copied", DETECTOR, FEATURES, 64) as writer:
        writer.write("under-another-id", evaluation[shown])
    with pytest.raises(UserError, match=rf"1 pictures have the regions of .*under-another-id, equal to {shown}\)"):
        check_stores_apart(replace(bench, pair_regions=tmp_path / "copied"), hashes)


def test_a_tagger_of_other_pairs_is_refused(folder: Path) -> None:
    pairs = (folder / "tags.jsonl").read_text().splitlines(keepends=True)
    (folder / "tags.jsonl").write_text("".join(pairs[:-1]))
    assert refusal(folder).endswith(
        f"was trained on other image-tag pairs than {folder}/tags.jsonl; train the tagger again"
    )
    check_photographs(bench_of(folder, "none"), folder)
    config = json.loads((folder / "tagger" / "tagger.json").read_text())
    (folder / "tagger" / "tagger.json").write_text(json.dumps(config | {"notes": {}}))
    assert "does not say which image-tag pairs" in refusal(folder)
    (folder / "tagger" / "tagger.json").unlink()
    assert "tagger.json: cannot be read" in refusal(folder)


def test_missing_regions_and_tags_are_found_before_training(folder: Path, made: Path) -> None:
    for name, image_ids in (
        ("training", [example.image_id for example in read_caption_examples(folder / "captions.jsonl")]),
        ("evaluation", listed(folder / "evaluation_pictures.tsv")),
    ):
        store, missing = folder / "regions" / name, image_ids[-1]
        kept = [image_id for image_id in RegionStore(store) if image_id != missing]
        shutil.rmtree(store)
        made_store(store, kept)
        assert f"regions/{name}: no regions of 1 pictures of {folder} (first: {missing})" in refusal(folder)
        shutil.rmtree(store)
        shutil.copytree(made / "regions" / name, store)
    tags = folder / "tagger" / "tags.jsonl"
    lines = [line for line in tags.read_text().splitlines(keepends=True) if json.loads(line)["image_id"] != missing]
    tags.write_text("".join(lines))
    assert f"{folder}/tagger/tags.jsonl: is not what this tagger wrote; train the tagger again" in refusal(folder)
    path = folder / "tagger" / "tagger.json"
    config = json.loads(path.read_text())
    config["notes"][WRITTEN] = sha256_of(tags)
    path.write_text(json.dumps(config))
    assert f"tags.jsonl: no tags of 1 pictures of {folder} (first: {missing})" in refusal(folder)


def test_examples_without_regions_name_file_and_place(made: Path, tmp_path: Path) -> None:
    examples = read_caption_examples(made / "captions.jsonl")
    ids = [example.image_id for example in examples]
    store = RegionStore(made_store(tmp_path / "store", [*ids[:1], *ids[3:]]))
    with pytest.raises(
        UserError, match=rf"captions.jsonl, example 2: picture {ids[1]} has no regions .*\(2 of {len(ids)}"
    ):
        CaptionPictures(examples, store, TagSource("none"), 0.0, 0)


def test_a_grid_that_does_not_fit_is_refused(made: Path, tmp_path: Path) -> None:
    """The whole picture is the last of a grid's five regions; of a detector's the least sure are cut, as documented."""
    bench = replace(bench_of(made), pretrain=(*bench_of(made).pretrain, "model.max_regions=4"))
    config = stages.pretrain_config(bench, VIVO, tmp_path / "run", 0)
    with pytest.raises(
        UserError, match=r"grid of 5 regions a picture.*takes 4; train with model.max_regions=5 or more"
    ):
        pretrain(config)
    assert not (tmp_path / "run" / "model").exists()
    store = RegionStore(bench.pair_regions)
    store.check_all_fit(5)
    RegionStore(made_store(tmp_path / "boxes", list(store), {"name": "detector"})).check_all_fit(4)
