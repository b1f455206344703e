"""`vivo caption`: captions for pictures of one's own, to read, as JSON, or as the alternative texts of a site."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vivo.errors import UserError
from vivo.files import printable
from vivo.program import whole_number

if TYPE_CHECKING:
    from vivo.captioner import Caption


def add_caption(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The verb and its options."""
    verb = verbs.add_parser("caption", help="captions for pictures of your own")
    verb.add_argument("pictures", nargs="+", type=Path, metavar="PICTURE", help="files, or folders of them")
    verb.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="as runs/demo/vivo of the demo")
    verb.add_argument(
        "--beam", type=whole_number(1), default=1, metavar="N", help="width of search; default: 1, greedy"
    )
    verb.add_argument(
        "--constraints", action="store_true", help="captions must name what the detector saw; best with --beam 5"
    )
    verb.add_argument(
        "--constraint-classes",
        default="",
        metavar="FILE",
        help="word forms: a classes.json; default: by rule",
    )
    verb.add_argument("--json", action="store_true", help="print JSON, with the log-probability of each word piece")
    verb.add_argument(
        "--alt-text",
        type=Path,
        metavar="FILE",
        help="alternative texts into a .csv, .json or .html; the same command goes on where it was interrupted",
    )
    verb.set_defaults(run=caption)


def caption(arguments: argparse.Namespace) -> int:
    """A caption for each picture, with its score and the tags that the model saw.

    Captions are printed as they come. A picture that cannot be read is one line on stderr; if it was the only
    one, that is an error (exit status 2), else the others are captioned and the exit status is 1.
    """
    for path in (*arguments.pictures, arguments.checkpoint):
        if not path.exists():
            raise UserError(f"{path}: no such {'folder' if path is arguments.checkpoint else 'picture'}")
    if arguments.constraint_classes and not arguments.constraints:
        raise UserError("--constraint-classes: is for --constraints")
    if arguments.alt_text is not None and arguments.json:
        raise UserError("--alt-text: writes a file, --json prints; choose one (--alt-text takes a .json, too)")
    from vivo.calibration import Calibration
    from vivo.captioner import Captioner
    from vivo.data.class_forms import read_class_words
    from vivo.detectors.extract import find_pictures

    constraints = read_class_words(arguments.constraint_classes) if arguments.constraints else None
    if arguments.alt_text is not None:
        return _alt_texts(arguments, constraints)
    calibration = Calibration.from_folder(arguments.checkpoint)
    captioner = Captioner.from_pretrained(arguments.checkpoint)
    files = [file for path in arguments.pictures for file in (find_pictures(path) if path.is_dir() else [path])]
    rows, broken = [], 0
    for found in captioner.caption_files(files, beam=arguments.beam, constraints=constraints):
        if found.problem:
            if len(files) == 1:
                raise UserError(found.problem)
            broken += 1
            print(f"left out: {printable(found.problem)}", file=sys.stderr)
        confidences = calibration.confidences(found.captions) if calibration else [None] * len(found.captions)
        for one, confidence in zip(found.captions, confidences, strict=True):
            if arguments.json:
                rows.append(_row(found.path, one, confidence))
            else:
                _print(found.path, one, confidence)
    if arguments.json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    return 1 if broken else 0


def _row(path: Path, one: "Caption", confidence: float | None) -> dict[str, Any]:
    """A caption as --json has it."""
    row = {"picture": printable(str(path)), "caption": one.text, "score": float(one.score), "tags": list(one.tags)}
    if confidence is not None:
        row["confidence"] = confidence
    row["log_probability"] = float(sum(one.token_log_probabilities))
    row["pieces"], row["token_log_probabilities"] = list(one.pieces), [float(p) for p in one.token_log_probabilities]
    if one.trace is not None:
        row["constraints"] = one.trace["constraints"]
    return row


def _print(path: Path, one: "Caption", confidence: float | None) -> None:
    """A caption for people."""
    print(f"{printable(str(path))}: {one.text}")
    sure = f"   confidence {confidence:.2f}" if confidence is not None else ""
    print(f"    score {one.score:.3f}{sure}   tags: {', '.join(one.tags) or '(none)'}", flush=True)
    if one.trace is not None:
        constraints = one.trace["constraints"]
        named = ", ".join(c["written"] or f"({c['name']})" for c in constraints) or "none"
        print(f"    constraints, what is not named in brackets: {named}", flush=True)


def _alt_texts(arguments: argparse.Namespace, constraints: Any) -> int:
    """--alt-text; exit status 1 where some pictures could not be read."""
    from vivo.alt_text import check_target, write_alt_texts
    from vivo.captioner import Captioner
    from vivo.detectors.extract import find_pictures

    out = arguments.alt_text
    check_target(out)  # before the seconds that loading takes
    files: list[tuple[Path, str]] = []
    for path in arguments.pictures:
        if path.is_dir():
            files += [(file, file.relative_to(path).as_posix()) for file in find_pictures(path)]
        else:
            files.append((path, path.name))
    names = [name for _, name in files]
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise UserError(f"--alt-text: two pictures would be called {twice}; give the folder that holds them all")
    captioner = Captioner.from_pretrained(arguments.checkpoint)
    rows = write_alt_texts(captioner, arguments.checkpoint, files, out, arguments.beam, constraints)
    broken = [row for row in rows if row.problem]
    for row in broken:
        print(f"left out: {printable(row.problem)}", file=sys.stderr)
    empty = sum(not row.alt and not row.problem for row in rows)
    unsure = f", {empty} of them empty: not sure enough" if empty else ""
    print(f"{out}: {len(rows) - len(broken)} alternative texts{unsure}")
    return 1 if broken else 0
