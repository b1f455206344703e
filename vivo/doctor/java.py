"""Java, which METEOR and SPICE need, and the files of SPICE. Optional: all other scores are computed without."""

import importlib.util
import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

from vivo.doctor.finding import Finding, first_line, ok, warning

CORENLP = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
ARCHIVE = "stanford-corenlp-full-2015-12-09.zip"
# SPICE's cache reads private fields of these packages, which Java 16 and later forbid unless they are opened.
OPENED = ("lang", "math", "util", "util.concurrent", "net", "text")
LAST_OPEN_JAVA = 15


def check_java() -> Iterator[Finding]:
    """Java, METEOR's jar and SPICE's."""
    version = None
    program = shutil.which("java")
    if program is None:
        yield warning("java", "not on PATH", "for METEOR and SPICE: apt-get install default-jre-headless")
    else:
        try:
            done = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=60)
            said = (done.stderr or done.stdout).strip()
            found = re.search(r'version "(?:1\.)?(\d+)', said)
            # JAVA_TOOL_OPTIONS is announced on a line of its own, before the version
            shown = next(
                (line for line in said.splitlines() if "version" in line), said.splitlines()[0] if said else ""
            )
            if done.returncode or not found:
                yield warning("java", f"{program} does not start: {shown}", "install it again: default-jre-headless")
            else:
                version = int(found[1])
                yield ok("java", shown)
        except (OSError, subprocess.TimeoutExpired) as error:
            yield warning(
                "java", f"{program} does not start: {first_line(error)}", "install it again: default-jre-headless"
            )
    yield check_spice(version)


def check_spice(java: int | None) -> Finding:
    """SPICE's files where pycocoevalcap looks for them.

    Args:
        java: major version of Java; None where there is none.
    """
    package = importlib.util.find_spec("pycocoevalcap")
    places = list(package.submodule_search_locations or ()) if package else []  # it has no __init__.py
    if not places:
        return warning("SPICE", "pycocoevalcap is not installed", "pip install pycocoevalcap")
    folder = Path(places[0]) / "spice" / "lib"
    missing = [name for name in CORENLP if not (folder / name).is_file()]
    if missing:
        fix = f"unpack {' and '.join(CORENLP)} out of {ARCHIVE} (nlp.stanford.edu) into {folder}"
        return warning("SPICE", f"{' and '.join(missing)} missing", fix)
    broken = [name for name in CORENLP if not zipfile.is_zipfile(folder / name)]
    if broken:
        return warning("SPICE", f"{' and '.join(broken)} cut or damaged", f"unpack it out of {ARCHIVE} again")
    if java is None:
        return warning("SPICE", "its files are there, Java is not", "apt-get install default-jre-headless")
    options = " ".join(f"--add-opens=java.base/java.{name}=ALL-UNNAMED" for name in OPENED)
    opened = os.environ.get("JAVA_TOOL_OPTIONS", "")
    if java > LAST_OPEN_JAVA and not all(option in opened for option in options.split()):
        return warning("SPICE", f"its cache fails on Java {java}", f'export JAVA_TOOL_OPTIONS="{options}"')
    return ok("SPICE", f"its files are there, Java {java}; not run")
