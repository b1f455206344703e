"""Builds vivo/metrics/spice_engine.jar from SpiceEngine.java beside it; needs a JDK.

    python tests/build_spice_engine.py

The same source gives the same bytes on the same JDK: entries are in order and without times.
"""

import subprocess
import tempfile
import zipfile
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "vivo" / "metrics" / "SpiceEngine.java"
JAR = SOURCE.with_name("spice_engine.jar")
SERVICE = "META-INF/services/javax.script.ScriptEngineFactory"
BEGINNING = (1980, 1, 1, 0, 0, 0)  # of a zip archive's time


def build(jar: Path) -> None:
    """Compile for Java 8 and later, and pack."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["javac", "--release", "8", "-Xlint:-options", "-d", folder, str(SOURCE)]
        subprocess.run(command, check=True)
        with zipfile.ZipFile(jar, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(zipfile.ZipInfo("META-INF/MANIFEST.MF", BEGINNING), "Manifest-Version: 1.0\n\n")
            archive.writestr(zipfile.ZipInfo(SERVICE, BEGINNING), "vivo.spice.SpiceEngine$Factory\n")
            for path in sorted(Path(folder).rglob("*.class")):
                name = path.relative_to(folder).as_posix()
                archive.writestr(zipfile.ZipInfo(name, BEGINNING), path.read_bytes())


if __name__ == "__main__":
    build(JAR)
    print(JAR, JAR.stat().st_size, "bytes")
