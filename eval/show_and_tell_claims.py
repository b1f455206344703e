"""What was claimed of Show and Tell, tried on photographs and on the embedded world, as tables (docs/show_and_tell.md).

    python eval/show_and_tell_claims.py --out runs/show_and_tell_claims --photographs ../shared/data/flickr8k_3k --world
    python eval/show_and_tell_claims.py --out runs/show_and_tell_claims --photographs ... --only frozen joint --seeds 1
    python eval/show_and_tell_claims.py --out runs/show_and_tell_claims --photographs ... --world --tables-only
        --docs docs/show_and_tell.md

    python eval/show_and_tell_claims.py --out ... --photographs ... --world --captions-only --jobs 16
        on a machine with a GPU; then, where OUT was copied to, the first line again makes the rest. Where only the
        captions were copied back, --tables-only; --also OUT2 adds the tables of what was trained elsewhere

Trains what is not trained yet, seed by seed, so that it may be stopped at any time; the same command goes on. Tables
are made of what is there. --photographs names a folder with captions.json (COCO's layout, every picture with its
"split": train, val or test) and images/.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vivo.errors import UserError
from vivo.files import atomic_write_text, writable_folder
from vivo.program import exits_cleanly, whole_number

BEGIN, END = "<!-- begin: eval/show_and_tell_claims.py -->", "<!-- end: eval/show_and_tell_claims.py -->"


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Parse, train, write tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for everything")
    parser.add_argument("--photographs", type=Path, metavar="DIR", help="captions.json and images/")
    parser.add_argument("--world", action="store_true", help="also claims (d) and (f), on the embedded world")
    parser.add_argument("--seeds", type=whole_number(1), default=3, metavar="N", help="default: 3")
    parser.add_argument("--only", nargs="*", metavar="VARIANT", help="of photographs; default: all")
    parser.add_argument("--tables-only", action="store_true", help="train nothing")
    parser.add_argument("--captions-only", action="store_true", help="Show and Tell's trainings and captions; no table")
    parser.add_argument("--jobs", type=whole_number(1), default=1, metavar="N", help="trainings at a time; default: 1")
    parser.add_argument(
        "--demo", type=Path, metavar="DIR", help="of `vivo demo --size full`: its rows none and vivo where OUT has none"
    )
    parser.add_argument("--no-meteor", action="store_true", help="without METEOR, which needs Java")
    parser.add_argument("--docs", type=Path, metavar="FILE", help="also write the tables into this page")
    parser.add_argument("--chart", type=Path, metavar="FILE.svg", help="also draw (e), the beam, copies")
    parser.add_argument(
        "--also",
        type=Path,
        nargs="*",
        default=[],
        metavar="DIR",
        help="other folders of this program, of trainings on another machine: their tables of photographs, too",
    )
    parser.add_argument("--quick", type=whole_number(1), metavar="N", help="updates of each training: a trial")
    arguments = parser.parse_args(argv)
    if not arguments.photographs and not arguments.world:
        raise UserError("nothing to do: give --photographs DIR, --world, or both")
    out = writable_folder(arguments.out)
    if arguments.docs and BEGIN not in arguments.docs.read_text(encoding="utf-8"):
        raise UserError(f"{arguments.docs}: has no line {BEGIN!r}, behind which the tables would stand")
    from vivo.experiment.recurrent_claims import photograph_tables
    from vivo.experiment.recurrent_photographs import BY_NAME, Photographs, prepare, train_all
    from vivo.experiment.recurrent_tables import chart
    from vivo.experiment.recurrent_world import compare
    from vivo.training.runtime import git_commit

    parts, drawn = [], []
    if arguments.photographs:
        of = Photographs(arguments.photographs, out / "photographs", arguments.quick or 0)
        names = arguments.only or list(BY_NAME)
        if unknown := [name for name in names if name not in BY_NAME]:
            raise UserError(f"--only: no variant {unknown[0]}; there are {', '.join(BY_NAME)}")
        prepare(of)
        if not arguments.tables_only:
            train_all(of, names, range(arguments.seeds), arguments.jobs)
        for folder in [] if arguments.captions_only else [out, *arguments.also]:
            of = Photographs(arguments.photographs, folder / "photographs")
            prepare(of)
            tables = photograph_tables(of, range(arguments.seeds), not arguments.no_meteor)
            parts += [t.markdown(f" ({folder.name})" if arguments.also else "") for t in tables]
            drawn += [t for t in tables if t.values and t.title not in [other.title for other in drawn]]
    if arguments.world and arguments.captions_only:
        from vivo.experiment.recurrent_world import caption_recurrent

        caption_recurrent(out / "world", arguments.seeds, bool(arguments.quick), arguments.jobs)
    elif arguments.world:
        if not arguments.tables_only:
            compare(out / "world", arguments.seeds, bool(arguments.quick), arguments.jobs)
        parts += world_part(out / "world", arguments.seeds, arguments.demo)
    if arguments.captions_only:
        return
    text = f"Commit {git_commit() or 'unknown'}, seeds 0 to {arguments.seeds - 1}.\n\n" + "\n".join(parts)
    atomic_write_text(out / "claims.md", text)
    if arguments.docs:
        page = arguments.docs.read_text(encoding="utf-8")
        before, _, rest = page.partition(BEGIN)
        atomic_write_text(arguments.docs, f"{before}{BEGIN}\n\n{text}\n{END}{rest.partition(END)[2]}")
    if arguments.chart and drawn:
        atomic_write_text(arguments.chart, chart(drawn))
    print(text)


def world_part(out: Path, seeds: int, demo: Path | None) -> list[str]:
    """Rows none, VIVO and Show and Tell on a world some of whose colours no caption says; novel objects, (d) and (f).

    Args:
        demo: a run whose none and vivo are taken where `out` has none; what its training captions say is its own.
    """
    from vivo.experiment.recurrent_world import base_classes, row_captions, rows_of_demo
    from vivo.experiment.recurrent_world_claims import training_facts, world_captions, world_tables

    rows = row_captions(out, seeds)
    others = {k: v for k, v in rows_of_demo(out, demo, seeds).items() if k not in rows} if demo else {}
    facts = dict.fromkeys(others, training_facts(demo / "world")) if demo and others else {}
    if not rows:
        return []
    found = world_captions(out / "world", others | rows, base_classes(), facts)
    return [table.markdown() for table in world_tables(found, out / "world")]


if __name__ == "__main__":
    sys.exit(main())
