"""Official caption files: COCO, Karpathy's splits, nocaps; their counts, and real captions for CIDEr's frequencies."""

import importlib.util
import itertools
import json
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from pycocoevalcap.cider.cider_scorer import CiderScorer

from vivo.data.coco import OFFICIAL_COUNTS, read_captions
from vivo.data.examples import read_caption_examples
from vivo.data.karpathy import COCO_PICTURES, read_karpathy
from vivo.data.nocaps import read_nocaps
from vivo.data.types import CaptionExample
from vivo.errors import UserError
from vivo.metrics.cider import DocumentFrequencies
from vivo.metrics.document_frequencies import END, count_document_frequencies
from vivo.metrics.tokenizer import ptb_tokenize_all

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the real sample data is not beside this checkout")


def prepare():
    spec = importlib.util.spec_from_file_location("prepare_coco", ROOT / "finetune" / "prepare_coco.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture(scope="session")
def coco_2014(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """captions_{train,val}2014.json, as they lie in pycocoevalcap's spice-1.0.jar."""
    (package,) = importlib.util.find_spec("pycocoevalcap").submodule_search_locations
    folder = tmp_path_factory.mktemp("coco2014")
    with zipfile.ZipFile(Path(package) / "spice" / "spice-1.0.jar") as jar:
        for name in ("captions_train2014.json", "captions_val2014.json"):
            (folder / name).write_bytes(jar.read(f"coco/annotations/{name}"))
    return folder


def karpathy(**changes: object) -> dict:
    """One picture of each split; `changes` go into the last."""
    images = [
        {
            "cocoid": number,
            "filepath": "val2014",
            "filename": f"COCO_val2014_{number:012d}.jpg",
            "split": split,
            "sentences": [{"raw": f" A {split}\npicture ", "tokens": ["a"], "sentid": number}],
        }
        for number, split in enumerate(("train", "restval", "val", "test"), 10)
    ]
    images[-1] |= changes
    return {"dataset": "coco", "images": images}


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


# --- Karpathy's splits -----------------------------------------------------------------------------------


def test_karpathy_train_includes_restval(tmp_path: Path) -> None:
    path = write(tmp_path / "dataset_coco.json", karpathy())
    assert read_karpathy(path, "train", any_count=True) == [
        CaptionExample("10", "val2014/COCO_val2014_000000000010.jpg", ["A train picture"]),
        CaptionExample("11", "val2014/COCO_val2014_000000000011.jpg", ["A restval picture"]),
    ]
    for split, ids in (("val", ["12"]), ("test", ["13"]), ("restval", ["11"]), ("train-without-restval", ["10"])):
        assert [example.image_id for example in read_karpathy(path, split, any_count=True)] == ids
    flickr = karpathy()
    flickr["dataset"] = "flickr8k"
    for image in flickr["images"]:
        del image["cocoid"], image["filepath"]
    assert read_karpathy(write(path, flickr), "val") == [
        CaptionExample("COCO_val2014_000000000012", "COCO_val2014_000000000012.jpg", ["A val picture"])
    ]


def test_karpathy_counts_of_coco_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files of the published size, and the two wrong ones that went round: without restval, and a part."""
    splits = Counter(
        {split: COCO_PICTURES[split] for split in ("val", "test", "restval")}
        | {"train": COCO_PICTURES["train-without-restval"]}
    )
    numbers = itertools.count()
    sentences = [{"raw": "a"}]
    images = [
        {"cocoid": next(numbers), "filename": "x.jpg", "split": split, "sentences": sentences}
        for split, count in splits.items()
        for _ in range(count)
    ]
    path = write(tmp_path / "dataset_coco.json", {"dataset": "coco", "images": images})
    assert [len(read_karpathy(path, split)) for split in ("train", "val", "test")] == [113_287, 5_000, 5_000]
    rest = [image for image in images if image["split"] != "restval"]
    write(path, {"dataset": "coco", "images": rest})
    command, out = prepare(), tmp_path / "train.parquet"
    assert command([str(path), str(out), "--split", "train"]) == 2 and not out.exists()
    error = capsys.readouterr().err
    assert "expected 113,287 pictures, found 82,783 (it lacks restval)" in error and error.count("\n") == 1
    assert command([str(path), str(out), "--split", "train", "--any-count"]) == 0
    assert len(read_caption_examples(out)) == 82_783


BAD_KARPATHY = {
    r"images\[3\]: picture 10 is listed twice": karpathy(cocoid=10),
    r"images\[3\]: split must be train, restval, val or test, found 'dev'": karpathy(split="dev"),
    r"images\[3\]: picture 13 has no sentences": karpathy(sentences=[]),
    r"images\[3\].sentences\[0\]: raw must be text that is not blank, found ' '": karpathy(sentences=[{"raw": " "}]),
    r"images\[3\]: filename must be text, found None": karpathy(filename=None),
    r"images\[3\]: filepath must be text, found 5": karpathy(filepath=5),
    r"images\[3\].cocoid: must be a whole number or text": karpathy(cocoid=1.5),
    r"no picture has the split test; ask for another": {"images": karpathy()["images"][:3]},
    r"no \"images\" with \"sentences\" in them": {"images": [{"id": 1}], "annotations": []},
    r"k.json: no \"images\"": [],
}


@pytest.mark.parametrize("message", BAD_KARPATHY)
def test_bad_karpathy_files_are_named_by_file_and_entry(tmp_path: Path, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_karpathy(write(tmp_path / "k.json", BAD_KARPATHY[message]), "test", any_count=True)


# --- official names, official counts ---------------------------------------------------------------------


def captions_of(count: int, **image: object) -> dict:
    return {
        "images": [{"id": number, **image} for number in range(count)],
        "annotations": [{"image_id": number, "id": number, "caption": "a dog"} for number in range(count)],
    }


def test_prepare_coco(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = captions_of(2)
    content["annotations"].append({"image_id": 0, "caption": "a\n cat"})
    for image in content["images"]:
        image["file_name"] = f"{image['id']}.jpg"
    captions, out = write(tmp_path / "own.json", content), tmp_path / "train.parquet"
    assert prepare()([str(captions), str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: 2 pictures with 3 captions (1.5 a picture)\n"
    assert list(read_caption_examples(out)) == [
        CaptionExample("0", "0.jpg", ["a dog", "a cat"]),
        CaptionExample("1", "1.jpg", ["a dog"]),
    ]
    (tmp_path / "1.jpg").touch()
    out.unlink()
    assert prepare()([str(captions), str(out), "--pictures", str(tmp_path)]) == 2
    assert "1 of 2 pictures of" in capsys.readouterr().err
    assert prepare()([str(write(tmp_path / "none.json", {**content, "annotations": []})), str(out)]) == 2
    assert prepare()([str(captions), str(out), "--split", "val"]) == 2
    assert "leave --split out" in capsys.readouterr().err and not out.exists()
    content = captions.read_bytes()
    assert prepare()([str(captions), str(captions)]) == 2 and captions.read_bytes() == content
    assert "is the file that is read" in capsys.readouterr().err
    assert prepare()([str(captions), str(out), "--document-frequencies", str(tmp_path)]) == 2 and not out.exists()


def test_a_part_of_train2017_is_refused_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = write(tmp_path / "captions_train2017.json", captions_of(3)), tmp_path / "train.jsonl"
    assert prepare()([str(path), str(out)]) == 2 and not out.exists()
    assert "captions_train2017.json: expected 118,287 pictures, found 3" in capsys.readouterr().err
    assert prepare()([str(path), str(out), "--any-count"]) == 0
    assert len(read_captions(path.rename(tmp_path / "mine.json"))) == 3
    path = write(tmp_path / "captions_val2017.json", captions_of(5_000))
    with pytest.raises(UserError, match="captions_val2017.json: expected 25,014 captions, found 5,000"):
        read_captions(path)


def test_nocaps_files_hold_their_split(tmp_path: Path) -> None:
    """Made-up files of the official sizes, then with one thing wrong each."""
    info = captions_of(10_600)
    del info["annotations"]
    for number, image in enumerate(info["images"]):
        image |= {"id": number + 4_500, "file_name": f"{number:016x}.jpg"}
    path = write(tmp_path / "nocaps_test_image_info.json", info)
    examples = read_nocaps(path, require_captions=False)
    assert len(examples) == 10_600 and {example.domain for example in examples} == {""}
    write(path, {"images": info["images"][1:]})
    with pytest.raises(UserError, match="expected 10,600 nocaps test pictures, found 10,599"):
        read_nocaps(path, require_captions=False)
    assert len(read_nocaps(path, require_captions=False, any_count=True)) == 10_599

    path = write(tmp_path / "nocaps_val_image_info.json", captions_of(4_500))
    with pytest.raises(UserError, match=r"images\[0\], picture 0: expected 10 captions, found 1"):
        read_nocaps(path)
    shifted = {"images": [{"id": number + 1} for number in range(4_500)]}
    with pytest.raises(UserError, match=r"1 picture ids are none of nocaps validation's 0 to 4499 \(one is '4500'\)"):
        read_nocaps(write(path, shifted), require_captions=False)
    wrong = captions_of(4_500, domain="in-domain")
    with pytest.raises(UserError, match="expected 417 in-domain pictures, found 4,500"):
        read_nocaps(write(path, wrong))


@needs_shared
def test_the_real_nocaps_validation_passes_under_its_official_name(tmp_path: Path) -> None:
    official = tmp_path / "nocaps_val_4500_captions.json"
    official.symlink_to(SHARED / "nocaps_val_captions.json")
    assert len(read_nocaps(official)) == 4_500
    content = json.loads(official.read_text())
    del content["annotations"][20_000]
    official.unlink()
    with pytest.raises(UserError, match=r"images\[2000\], picture 2000: expected 10 captions, found 9"):
        read_nocaps(write(official, content))


@needs_shared
def test_the_real_val2017_passes_under_its_official_name(tmp_path: Path) -> None:
    official = tmp_path / "captions_val2017.json"
    official.symlink_to(SHARED / "coco_captions_val2017.json")
    assert len(read_captions(official)) == 5_000


# --- real captions ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_all_coco_captions_of_2014(coco_2014: Path, tmp_path: Path) -> None:
    """616,767 captions of 123,287 pictures go through reading, writing and reading again unchanged."""
    total = 0
    for name in ("captions_train2014.json", "captions_val2014.json"):
        out = tmp_path / f"{name}.parquet"
        assert prepare()([str(coco_2014 / name), str(out)]) == 0
        written = read_caption_examples(out)
        raw = json.loads((coco_2014 / name).read_text())
        expected: dict[str, list[str]] = {str(image["id"]): [] for image in raw["images"]}
        for annotation in raw["annotations"]:
            expected[str(annotation["image_id"])].append(" ".join(annotation["caption"].split()))
        assert {example.image_id: example.captions for example in written} == expected
        total += sum(map(len, expected.values()))
    assert total == 616_767 == sum(OFFICIAL_COUNTS[f"captions_{split}2014.json"][1] for split in ("train", "val"))


@needs_shared
def test_document_frequencies_equal_pycocoevalcaps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Over 2,300 real pictures (three blocks): against its own counting, and through the file."""
    pictures = [example.captions for example in read_captions(SHARED / "coco_captions_val2017.json")[:2_300]]
    flat = iter(ptb_tokenize_all([caption for captions in pictures for caption in captions]))
    theirs = CiderScorer()
    for captions in pictures:
        theirs.cook_append(None, [" ".join(next(flat)) for _ in captions])
    theirs.compute_doc_freq()
    expected = {" ".join(ngram): int(count) for ngram, count in theirs.document_frequency.items()}
    seen: list[int] = []
    ours = count_document_frequencies(iter(pictures), seen.append)
    plain = {ngram: count for ngram, count in ours.counts.items() if END not in ngram.split()}
    assert ours.pictures == 2_300 and plain == expected and seen == [1_000, 2_000, 2_300]
    assert ours.counts[END] == 2_300 and ours.counts[f"street {END}"] > 100  # ends are counted too

    some = {
        "images": [{"id": number} for number in range(50)],
        "annotations": [{"image_id": n, "caption": c} for n in range(50) for c in pictures[n]],
    }
    path, table = write(tmp_path / "own.json", some), tmp_path / "frequencies.json"
    assert prepare()([str(path), str(tmp_path / "o.jsonl"), "--document-frequencies", str(table)]) == 0
    stored = DocumentFrequencies.load(table)
    whole = count_document_frequencies(pictures[:50])
    assert stored.pictures == 50 and stored.counts == {ngram: n for ngram, n in whole.counts.items() if n > 1}
    assert f"{len(stored.counts)} n-grams that two or more of 50 pictures have" in capsys.readouterr().out
    with pytest.raises(UserError, match="no pictures"):
        count_document_frequencies([])


def test_document_frequencies_cross_blocks_whole() -> None:
    """The last caption of a block ends in "B.", whose full stop hangs on the next block's first word."""
    for after in ("The end.", "some end."):
        pictures = [["a dog"]] * 999 + [["Vitamin B."], [after, "Vitamin B."]]
        tokens = iter(ptb_tokenize_all([caption for captions in pictures for caption in captions]))
        expected = DocumentFrequencies.of([[[*next(tokens), END] for _ in captions] for captions in pictures])
        assert count_document_frequencies(pictures).counts == expected.counts
