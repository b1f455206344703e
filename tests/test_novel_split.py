"""The novel-object split: words, choices by hand and by property, no leak, real photographs and the world's format."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from novel_benchmark import captioned_pictures, coco_file, load_script, small_split

from vivo.data.coco import read_captions
from vivo.data.examples import read_caption_examples, read_tag_examples
from vivo.data.nocaps import read_classes, read_nocaps
from vivo.data.novel_files import check_novel_benchmark
from vivo.data.novel_split import HeldOutWords, SplitPlan, check_no_leak, choose_split
from vivo.data.object_words import find_object_words, object_word, plural_of, read_object_words
from vivo.data.types import CaptionExample
from vivo.errors import UserError
from vivo.metrics.tokenizer import ptb_tokenize_all
from vivo.world.write import WorldConfig, write_world

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the real sample data is not beside this checkout")


program = load_script("finetune/prepare_novel_split.py").main


@pytest.mark.parametrize(
    ("name", "plural"),
    [
        ("dog", "dogs"),
        ("bus", "buses"),
        ("box", "boxes"),
        ("bench", "benches"),
        ("puppy", "puppies"),
        ("boy", "boys"),
        ("fireman", "firemen"),
        ("police woman", "police women"),
        ("traffic light", "traffic lights"),
        ("sheep", "sheep"),
        ("knife", "knives"),
    ],
)
def test_plurals(name: str, plural: str):
    assert plural_of(name) == plural


def test_object_lists(tmp_path: Path):
    path = tmp_path / "objects.txt"
    path.write_text("# things\nbicycle, bike\n\nTeddy  Bear\n")
    bicycle, bear = read_object_words(path)
    assert (bicycle.name, bicycle.forms) == ("bicycle", ["bicycle", "bicycles", "bike", "bikes"])
    assert (bear.name, bear.plural, bear.role) == ("teddy bear", "teddy bears", "base")
    for text, message in (("", "empty"), ("dog\ncat\ndog", "line 3: 'dog' is listed twice"), ("dog,,", "is empty")):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_object_words(path)


def test_nouns_are_found_and_verbs_and_adjectives_are_not():
    captions = ["a red dog runs on a hill", "two dogs run with a ball", "a dog jumping with balls", "a ball on a dog"]
    captions += ["a ball in the air", "three men and a red ball", "a man runs", "a man on a hill", "a climb of a man"]
    captions += [
        "a climb on a hill",
        "men and hills",
        "a climb",
        "a dog with a man",
        "dogs with balls and dogs",
        "two climbs and hills, three climbs, two hills",
        *["men climbing"] * 6,
    ]
    found = find_object_words(ptb_tokenize_all(captions), min_captions=4)
    assert {entry.name for entry in found} == {"dog", "ball", "man", "hill"}
    assert found[0].name == "man" and found[0].forms == ["man", "men"]  # the most frequent first


def test_held_out_words_are_found_wherever_they_stand():
    words = HeldOutWords([object_word(["dog"]), object_word(["traffic light"])])
    for text in ("A DOG.", "dog-like", "a hot dog", "the dog's ball", "dogs!", "a traffic-light", "traffic  lights"):
        assert words.first(text), text
    for text in ("a dogma", "bulldog", "hotdog", "traffic and light", "doggy"):
        assert words.first(text) is None, text


# ---- the choice -------------------------------------------------------------------------------------------------


def classes_of(base: int, novel: int) -> list:
    return [object_word([f"base{n}"]) for n in range(base)] + [object_word([f"new{n}"], "novel") for n in range(novel)]


def choose(naming: np.ndarray, novel: int, plan: SplitPlan, twins: np.ndarray | None = None, pairs: str = "all"):
    pictures, size = naming.shape
    classes = classes_of(size - novel, novel)
    twins = np.arange(pictures) if twins is None else twins
    betrayed = np.zeros(pictures, dtype=bool)
    return choose_split(naming, naming > 0, betrayed, np.zeros(size, dtype=bool), twins, classes, plan, pairs)


def test_a_choice_worked_out_by_hand():
    """Columns: base, novel. 4 pictures show the novel object alone, 2 beside the base object, 3 the base alone."""
    naming = np.array([[0, 1]] * 4 + [[2, 1]] * 2 + [[2, 0]] * 3)
    plan = SplitPlan(evaluation=3, evaluation_each=1, pairs_each=3, in_domain=1, validation=1)
    split = choose(naming, 1, plan)
    shown = split.evaluation[split.evaluation < 6]
    assert len(shown) == 3 and len(split.evaluation) == 4 and len(split.validation) == 1
    assert len(split.finetuning) == 1 and split.finetuning[0] >= 6
    assert sorted(split.pairs) == sorted({*range(9)} - {*split.evaluation, *split.validation})
    expected = ["out-domain" if i < 4 else "near-domain" if i < 6 else "in-domain" for i in split.evaluation]
    assert split.domains == expected
    assert set(choose(naming, 1, plan, pairs="apart").pairs) == {*range(6)} - {*split.evaluation}
    # named by one caption alone, the base object does not count when two must agree
    naming[4:6, 0] = 1
    assert "near-domain" not in choose(naming, 1, plan).domains


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    base=st.integers(1, 4),
    novel=st.integers(1, 3),
    contents=st.integers(30, 80),
    pairs=st.sampled_from(["all", "apart"]),
)
def test_what_every_split_keeps(seed: int, base: int, novel: int, contents: int, pairs: str):
    random = np.random.default_rng(seed)
    naming = random.integers(0, 4, (80, base + novel)) * (random.random((80, base + novel)) < 0.35)
    twins = random.integers(0, contents, 80)
    plan = SplitPlan(seed, evaluation=8, evaluation_each=2, pairs_each=5, in_domain=4, validation=2)
    try:
        split = choose(naming, novel, plan, twins, pairs)
    except UserError as error:
        assert "lower" in str(error) or "hold out" in str(error)
        return
    shown = naming[:, base:] > 0
    evaluation, validation = set(split.evaluation), set(split.validation)
    assert len(evaluation) == len(split.evaluation) and not evaluation & validation
    training = {*split.pairs, *split.finetuning}
    assert not training & (evaluation | validation) and len(validation) == 2
    # equal contents never stand on both sides, and a picture whose twin names a held-out object is not fine-tuned on
    assert not {twins[i] for i in training | validation} & {twins[i] for i in evaluation}
    told = {twins[i] for i in np.flatnonzero(shown.any(axis=1))}
    assert not told & {twins[i] for i in [*split.finetuning, *split.validation]}
    assert (shown[split.pairs].sum(axis=0) >= 5).all() and (shown[split.evaluation].sum(axis=0) >= 2).all()
    assert shown[split.evaluation].any(axis=1).sum() >= 8
    for place, domain in zip(split.evaluation, split.domains, strict=True):
        has_base = (naming[place, :base] >= 2).any()
        wanted = "in-domain" if not shown[place].any() else "near-domain" if has_base else "out-domain"
        assert domain == wanted
    again = choose(naming, novel, plan, twins, pairs)
    assert all(np.array_equal(a, b) for a, b in zip(vars(split).values(), vars(again).values(), strict=True))


def test_a_picture_tagged_with_a_held_out_object_is_not_in_domain():
    """20 pictures show the novel object; of 10 that only name the base object, the tags of 5 know of it too."""
    naming = np.array([[0, 1]] * 20 + [[2, 0]] * 10)
    tagged = naming > 0
    tagged[20:25, 1] = True
    plan = SplitPlan(evaluation=5, evaluation_each=1, pairs_each=4, in_domain=4)
    nothing, alone = np.zeros(30, dtype=bool), np.arange(30)
    for seed in range(5):
        plan = replace(plan, seed=seed)
        split = choose_split(naming, tagged, nothing, nothing[:2], alone, classes_of(1, 1), plan)
        assert {i for i, domain in zip(split.evaluation, split.domains, strict=True) if domain == "in-domain"} < {
            *range(25, 30)
        }
        assert {20, 21, 22, 23, 24} < {*split.finetuning} & {*split.pairs}  # no caption of theirs betrays it


def test_data_that_cannot_give_the_split():
    naming = np.array([[2, 0, 0]] * 20 + [[0, 1, 0]] * 12 + [[0, 1, 1]] * 8)
    fits = SplitPlan(evaluation=8, evaluation_each=4, pairs_each=4, in_domain=10)
    choose(naming, 2, fits)
    for change, text in (
        ({"pairs_each": 5}, "too few pictures name new1 \\(8\\): 9 are needed \\(5 pre-training pairs and 4"),
        ({"evaluation": 17}, "17 evaluation pictures with held-out objects are wanted, 16 can be had"),
        ({"in_domain": 21}, "21 in-domain pictures are wanted .* but only 20"),
    ):
        plan = replace(fits, **change)
        with pytest.raises(UserError, match=text):
            choose(naming, 2, plan)
    with pytest.raises(UserError, match=r"new1: the 8 pictures that name it give 2 evaluation pictures and 6 pre-"):
        choose(naming, 2, fits, twins=np.r_[np.arange(32), 100, 100, 101, 101, 102, 102, 103, 104])


# ---- nothing leaks ----------------------------------------------------------------------------------------------


def test_each_kind_of_leak_is_refused():
    novel = [object_word(["dog"], "novel")]
    training = [CaptionExample("1", "1.jpg", ["a cat"])]
    evaluation = [CaptionExample("9", "9.jpg", ["a dog"], "out-domain")]
    hashes = {"1": "one", "2": "two", "9": "nine", "8": "nine"}
    check_no_leak(training, ["1", "2"], evaluation, novel, hashes)
    tagged = [replace(training[0], tags=["cat"])]
    for captions, pairs, text in (
        (training, ["2", "9"], "evaluation picture 9 is among the pre-training pairs"),
        (evaluation, ["2"], "evaluation picture 9 is among the captions"),
        (training, ["8"], "picture 8 among the pre-training pairs has the content of evaluation picture 9"),
        ([CaptionExample("8", "", ["a cat"])], [], "picture 8 among the captions has the content"),
        ([CaptionExample("1", "", ["a cat", "two Dogs"])], [], "'Dogs' is held out, but stands in a training caption"),
        (tagged, [], "come with tags"),
        (training, ["7"], "picture 7 has no content hash"),
    ):
        with pytest.raises(UserError, match=text):
            check_no_leak(captions, pairs, evaluation, novel, hashes)


# ---- whole runs -------------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return captioned_pictures(tmp_path)


def test_a_small_run_whole(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert small_split(small, tmp_path / "out", "--validation", "2") == 0
    told = capsys.readouterr().out
    assert "1 exist under another id too" in told
    commands = [line for line in told.splitlines() if "extract_regions.py" in line]
    assert len(commands) == 2 and all(line.endswith("_pictures.tsv --detector grid") for line in commands)
    out = tmp_path / "out"
    training = list(read_caption_examples(out / "captions.jsonl"))
    pairs = {example.image_id: example.tags for example in read_tag_examples(out / "tags.jsonl")}
    evaluation = read_nocaps(out / "nocaps_val_captions.json")
    # 15 pictures show a cat alone: 4 in-domain, 2 validation, 9 training; hot dogs and the twin of a dog stay out
    assert len(training) == 9 and all(int(example.image_id) % 4 == 2 for example in training)
    assert len(read_captions(out / "captions_val.json")) == 2
    assert sorted({example.domain for example in evaluation}) == ["in-domain", "near-domain", "out-domain"]
    assert len(evaluation) == 14 and not {e.image_id for e in evaluation} & {"0", "60"}
    assert pairs["0"] == ["dog", "grass"] or pairs["0"] == ["grass", "dog"]
    assert set(pairs["60"]) == {"cat", "grass"} and "60" not in {example.image_id for example in training}
    assert len(pairs) == 61 - 14 - 2
    assert [(c.name, c.role) for c in read_classes(out / "classes.json")][-1] == ("dog", "novel")
    lists = [(out / f"{name}_pictures.tsv").read_text().splitlines() for name in ("training", "evaluation")]
    assert len(lists[0]) == 47 and [line.split("\t")[0] for line in lists[1]] == [e.image_id for e in evaluation]
    record = json.loads((out / "split.json").read_text())
    assert record["held_out"][0]["pairs"] == sum("dog" in tags for tags in pairs.values()) == 20
    assert record["held_out"][0]["evaluation"] == 10 and record["object words"] == "of objects.txt"


def test_the_seed_decides_and_the_bytes_are_the_same(small: Path, tmp_path: Path):
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        assert small_split(small, tmp_path / name, "--seed", seed) == 0
    with pytest.raises(SystemExit):
        small_split(small, tmp_path / "none", "--seed", "-1")
    a, b, c = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in "abc")
    assert a == b
    assert a["nocaps_val_captions.json"] != c["nocaps_val_captions.json"]


def test_a_benchmark_that_was_changed_is_refused(small: Path, tmp_path: Path):
    out = tmp_path / "out"
    assert small_split(small, out) == 0
    check_novel_benchmark(out)
    shown = next(example for example in read_nocaps(out / "nocaps_val_captions.json") if example.domain == "in-domain")
    whole = (out / "captions.jsonl").read_text()
    for line, text in (
        ({"image_id": shown.image_id, "captions": shown.captions}, "is among the captions"),
        ({"image_id": "0", "captions": ["my dog"]}, "'dog' is held out"),
    ):
        (out / "captions.jsonl").write_text(whole + json.dumps(line) + "\n")
        with pytest.raises(UserError, match=text):
            check_novel_benchmark(out)


def test_a_benchmark_that_lacks_a_file_is_one_line(small: Path, tmp_path: Path):
    out = tmp_path / "out"
    assert small_split(small, out) == 0
    for name in ("pictures.jsonl", "tags.jsonl", "captions.jsonl", "classes.json", "split.json"):
        (out / name).rename(tmp_path / name)
        with pytest.raises(UserError, match=f"{name}: is missing; make the split again") as refused:
            check_novel_benchmark(out)
        assert "\n" not in str(refused.value)
        (tmp_path / name).rename(out / name)
    (out / "pictures.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="pictures.jsonl: cannot be read"):
        check_novel_benchmark(out)
    (out / "pictures.jsonl").write_text('{"image_id": "1", "sha256": "a"}\n{"image_id": "2"}\n')
    with pytest.raises(UserError, match="pictures.jsonl, row 2: damaged"):
        check_novel_benchmark(out)


def test_clear_errors_and_nothing_half_written(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    out = tmp_path / "out"
    assert small_split(small, out, "--held-out", "dgo") == 2
    assert "no caption names dgo; near it: dog" in capsys.readouterr().err
    assert small_split(small, out, "--min-pairs", "40") == 2
    assert "too few pictures name dog (30): 45 are needed" in capsys.readouterr().err
    (tmp_path / "images" / "7.png").write_bytes(b"GIF89a")
    assert small_split(small, out) == 2
    assert "1 of 61 pictures cannot be read" in capsys.readouterr().err
    assert program([str(small), "--held-out", "dog"]) == 2
    assert program([str(small), str(out)]) == 2
    assert "no object to hold out" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["captions.json", "images", "objects.txt"]


def flickr_part(folder: Path, pictures: int) -> Path:
    content = json.loads((SHARED / "flickr8k_3k" / "captions.json").read_text())
    ids = {image["id"] for image in content["images"][:pictures]}
    captions = [(a["image_id"], a["caption"]) for a in content["annotations"] if a["image_id"] in ids]
    return coco_file(folder, content["images"][:pictures], captions)


def check_with_real_programs(out: Path, novel: list[str], capsys: pytest.CaptureFixture) -> dict:
    """eval/score.py on the first reference as prediction; returns the scores."""
    evaluation = read_nocaps(out / "nocaps_val_captions.json")
    (out / "p.json").write_text(json.dumps([{"image_id": e.image_id, "caption": e.captions[0]} for e in evaluation]))
    arguments = ["--predictions", out / "p.json", "--references", out / "nocaps_val_captions.json"]
    arguments += ["--classes", out / "classes.json", "--out", out / "scores.json"]
    assert load_script("eval/score.py").main([str(argument) for argument in arguments]) == 0
    capsys.readouterr()
    scores = json.loads((out / "scores.json").read_text())
    assert [name for name, entry in scores["per_class"].items() if entry["role"] == "novel"] == novel
    for example in read_caption_examples(out / "captions.jsonl"):
        for tokens in ptb_tokenize_all(example.captions):
            assert not {*novel, *map(plural_of, novel)} & {
                *tokens,
                *map(" ".join, zip(tokens, tokens[1:], strict=False)),
            }
    return scores


@needs_shared
def test_real_photographs_of_flickr(tmp_path: Path, capsys: pytest.CaptureFixture):
    captions = flickr_part(tmp_path, 500)
    folder = SHARED / "flickr8k_3k" / "images"
    options = ["--pictures", str(folder), "--evaluation", "50", "--in-domain", "30", "--min-evaluation-each", "5"]
    options += ["--min-pairs", "10", "--held-out", "dog,puppy", "ball", "bicycle,bike"]
    assert program([str(captions), str(tmp_path / "out"), *options]) == 0
    page = capsys.readouterr().out
    assert "500 pictures" in page and "bicycle, bicycles, bike" in page
    scores = check_with_real_programs(tmp_path / "out", ["dog", "ball", "bicycle"], capsys)
    assert scores["overall"]["pictures"] == 80 and scores["out"]["F1"] > 0.5
    assert program([str(captions), "--suggest", "--min-pairs", "10"]) == 0
    suggested = {line.split("│")[1].strip() for line in capsys.readouterr().out.splitlines() if "│" in line}
    assert {"dog", "man", "ball"} <= suggested
    # adjectives, verbs, scenery and words like "background" are no objects
    assert not {"red", "little", "running", "jump", "water", "grass", "background", "people"} & suggested


@needs_shared
@pytest.mark.slow
def test_all_photographs_of_flickr(tmp_path: Path, capsys: pytest.CaptureFixture):
    folder = SHARED / "flickr8k_3k"
    options = ["--pictures", str(folder / "images"), "--held-out", "dog,puppy", "bicycle,bike", "car", "boat", "bench"]
    assert program([str(folder / "captions.json"), str(tmp_path / "out"), *options, "--evaluation", "220"]) == 0
    record = json.loads((tmp_path / "out" / "split.json").read_text())
    assert all(row["pairs"] >= 30 and row["evaluation"] >= 10 for row in record["held_out"])
    assert record["pictures"]["near-domain"] + record["pictures"]["out-domain"] == 220
    check_with_real_programs(tmp_path / "out", ["dog", "bicycle", "car", "boat", "bench"], capsys)


@needs_shared
def test_real_coco_with_the_tags_of_its_boxes(tmp_path: Path, capsys: pytest.CaptureFixture):
    folder = SHARED / "coco_mini_159"
    sizes = ["--evaluation", "5", "--min-evaluation-each", "2", "--min-pairs", "3", "--in-domain", "10"]
    options = ["--pictures", folder / "images", "--instances", folder / "instances.json", "--tags", "given"]
    options += ["--objects", SHARED / "vocab" / "objects_vocab.txt", *sizes, "--held-out", "bear", "pizza"]
    assert program([str(option) for option in (folder / "captions.json", tmp_path / "out", *options)]) == 0
    capsys.readouterr()
    given = {category["name"] for category in json.loads((folder / "instances.json").read_text())["categories"]}
    tags = {tag for example in read_tag_examples(tmp_path / "out" / "tags.jsonl") for tag in example.tags}
    assert (
        {"bear", "pizza"} <= tags <= given | {entry.name for entry in read_classes(tmp_path / "out" / "classes.json")}
    )
    check_with_real_programs(tmp_path / "out", ["bear", "pizza"], capsys)


def test_the_format_of_the_world(tmp_path: Path, capsys: pytest.CaptureFixture):
    write_world(tmp_path / "world", WorldConfig(seed=0, open_images=2, coco=90, coco_val=2, nocaps=2))
    world = tmp_path / "world"
    sizes = ["--evaluation", "6", "--min-evaluation-each", "2", "--min-pairs", "1", "--in-domain", "10"]
    options = ["--pictures", world / "coco" / "images", "--objects", world / "classes.json", *sizes]
    options += ["--held-out", "dog", "hot dog", "bear"]
    assert (
        program([str(option) for option in (world / "coco" / "captions_train.json", tmp_path / "out", *options)]) == 0
    )
    capsys.readouterr()
    check_with_real_programs(tmp_path / "out", ["dog", "hot dog", "bear"], capsys)
