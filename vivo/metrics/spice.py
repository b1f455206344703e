"""SPICE 1.0 (Anderson et al. 2016) by the jar in pycocoevalcap's wheel, per picture.

The wheel has all of it but the two jars of Stanford CoreNLP 3.6.0 (`CORENLP`, 400 MB), which the user brings: by the
argument `folder`, by the environment variable VIVO_SPICE, or in pycocoevalcap/spice/lib, where pycocoevalcap downloads
them to. Differences from pycocoevalcap's `Spice`, none in the scores:

* temporary files and the cache of parsed captions lie in `vivo.files.cache_folder`, not in site-packages;
* no more memory is asked for than the machine has (there: 8 GB);
* it runs on Java 16 and later, where the cache needs closed packages opened, and on 15 and later, where JavaScript is
  gone, with which the program indents its result (SpiceEngine.java).
"""

import json
import math
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vivo.errors import UserError
from vivo.files import cache_folder
from vivo.metrics.java import Java, JavaProcess, JavaScoreError, find_java, scratch_folder, wheel_folder

JAR = "spice-1.0.jar"
CORENLP = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
ARCHIVE = "stanford-corenlp-full-2015-12-09.zip"
ENGINE = Path(__file__).with_name("spice_engine.jar")
# The cache's library reads private fields of these packages, which Java 16 and later forbid unless they are opened.
OPENED = ("lang", "math", "util", "util.concurrent", "net", "text")
LAST_OPEN_JAVA, LAST_JAVA_WITH_JAVASCRIPT = 15, 14
MOST_HEAP = 8 << 30  # as pycocoevalcap asks for
LIMIT = 4 * 3600.0
"""Seconds until it is taken to hang: parsing 50,000 captions takes the better part of an hour, once."""


class Spice:
    """Scores captions by the jar.

    Args:
        folder: with `CORENLP`, and spice-1.0.jar with its lib/ where it is another than the wheel's; None: see above.
        limit: seconds until it is taken to hang.
    """

    def __init__(self, folder: str | Path | None = None, limit: float = LIMIT) -> None:
        self.limit = limit
        self._folder = folder or os.environ.get("VIVO_SPICE")

    def class_path(self) -> list[Path]:
        """The jars.

        Raises:
            JavaScoreError: one is missing, or is none.
        """
        folder = Path(self._folder) if self._folder else wheel_folder("spice") / "lib"
        jars = [folder / JAR if (folder / JAR).is_file() else wheel_folder("spice") / JAR]
        for name in CORENLP:
            places = [folder / name, folder / "lib" / name, folder / ARCHIVE.removesuffix(".zip") / name]
            jars.append(next((place for place in places if place.is_file()), places[0]))
        missing = [jar.name for jar in jars if not jar.is_file()]
        if missing:
            into = "" if self._folder else ", or into a folder of yours: export VIVO_SPICE=FOLDER"
            fix = f"unpack {' and '.join(CORENLP)} out of {ARCHIVE} (nlp.stanford.edu) into {folder}{into}"
            raise JavaScoreError(f"{' and '.join(missing)} missing", fix)
        broken = [jar.name for jar in jars if not zipfile.is_zipfile(jar)]
        if broken:
            raise JavaScoreError(f"{' and '.join(broken)} cut or damaged", f"unpack it out of {ARCHIVE} again")
        return jars

    def check(self) -> Java:
        """What can be seen without a run.

        Raises:
            JavaScoreError: no Java, or a jar is missing or damaged.
        """
        self.class_path()
        return find_java()

    def score(self, captions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
        """float64 [pictures], 0..1: the F of all tuples of each picture; papers print 100 times its mean.

        Args:
            captions: tokens joined by spaces, one caption a picture. references: [picture][reference], likewise.

        Raises:
            JavaScoreError: it cannot be had, and why.
        """
        java = self.check()
        pictures = [
            {"image_id": number, "test": caption, "refs": list(texts)}
            for number, (caption, texts) in enumerate(zip(captions, references, strict=True))
        ]
        with scratch_folder() as folder:
            (folder / "in.json").write_text(json.dumps(pictures), encoding="ascii")
            with JavaProcess(self.command(java, folder), folder, self.limit) as process:
                process.finish()
            return _read(folder / "out.json", len(pictures))

    def command(self, java: Java, folder: Path) -> list[str]:
        """How the program is called, in the scratch folder `folder`."""
        try:
            cache = cache_folder("spice")
        except UserError as error:
            found, _, fix = str(error).partition("; ")
            raise JavaScoreError(found, fix) from error
        jars = self.class_path()
        opened: list[str] = []
        if java.version > LAST_JAVA_WITH_JAVASCRIPT:
            jars.append(ENGINE)
        if java.version > LAST_OPEN_JAVA:
            opened = [f"--add-opens=java.base/java.{name}=ALL-UNNAMED" for name in OPENED]
        return [
            java.program, f"-Xmx{_heap() >> 20}m", "-Dfile.encoding=UTF-8", f"-Djava.io.tmpdir={folder}", *opened,
            "-cp", os.pathsep.join(map(str, jars)), "edu.anu.spice.SpiceScorer",
            str(folder / "in.json"), "-cache", str(cache), "-out", str(folder / "out.json"), "-subset", "-silent",
        ]  # fmt: skip


def _heap() -> int:
    """Bytes for Java: no more than pycocoevalcap asks for, and a part of what the machine has."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(MOST_HEAP, memory * 3 // 4)


def _read(path: Path, pictures: int) -> np.ndarray:
    """The scores of -out, by place."""
    try:
        scores = {entry["image_id"]: entry["scores"]["All"]["f"] for entry in json.loads(path.read_bytes())}
        found = np.array([scores[number] for number in range(pictures)], dtype=np.float64)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise JavaScoreError(f"its result cannot be read ({type(error).__name__}: {error})", "vivo doctor") from error
    if not math.isfinite(found.sum()):
        raise JavaScoreError("it gave a picture no score", "see that every reference has words")
    return found
