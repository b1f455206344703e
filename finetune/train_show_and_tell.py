"""Show and Tell, the CNN + LSTM captioner of 2015/2016, on image-sentence pairs (docs/show_and_tell.md).

    frozen encoder     python finetune/train_show_and_tell.py configs/finetune/show_and_tell_flickr.yaml
    all of it          python finetune/train_show_and_tell.py configs/finetune/show_and_tell_flickr_joint.yaml
    several processes  as finetune/train.py

CONFIG is a YAML file with objective show_and_tell, followed by dotted overrides. With a frozen encoder its outputs are
computed once, into `data.regions`. A run whose folder holds a checkpoint goes on from it. The trained model lies in
<out>/model. Self-critical training of it: finetune/train_scst.py.
"""

import sys
from collections.abc import Sequence

from vivo.program import exits_cleanly
from vivo.training.command import training_command


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load, look or train."""
    return training_command("finetune/train_show_and_tell.py", __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
