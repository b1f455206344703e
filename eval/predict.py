"""Captions for the pictures of a RegionStore: predictions.json and its header with the decode settings.

    python eval/predict.py configs/eval/world.yaml checkpoint=runs/demo/vivo out=runs/eval decode.beam=5

Or, by a captioner that sees pixels (Show and Tell), for the files in `pictures`; with `ensemble`, by several models.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vivo.config import load_eval_config
from vivo.program import exits_cleanly


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Parse, load, predict, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_args(argv)
    config = load_eval_config(arguments.config, arguments.overrides)
    from vivo.data.nocaps import read_pictures
    from vivo.data.predictions import constraints_path, read_header
    from vivo.prediction import predict_split
    from vivo.show_and_tell.pictures import files_of

    examples = read_pictures(config.references)  # never their captions
    image_ids, out = [example.image_id for example in examples], Path(config.out) / "predictions.json"
    checkpoint, others = Path(config.checkpoint), [Path(p.strip()) for p in config.ensemble.split(",") if p.strip()]
    seen = files_of(examples, config.pictures) if config.pictures else Path(config.regions)
    predict_split(
        checkpoint, seen, image_ids, config.tags, config.decode, out, tag_file=config.tag_file, ensemble=others
    )
    print(out)
    if made := read_header(out).get("constraints"):
        print(
            f"{made['satisfied']:,} of {made['constraints']:,} constraints satisfied; {made['fell_back']:,} captions"
            f" with fewer than asked for ({constraints_path(out).name})"
        )


if __name__ == "__main__":
    sys.exit(main())
