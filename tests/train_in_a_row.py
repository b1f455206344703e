"""pretrain/train.py, several times in one process: `python tests/train_in_a_row.py '[[CONFIG, key=value, ...], ...]'`.

For tests/test_distributed.py, which starts it on several processes.
"""

import json
import sys

from pretrain.train import main

sys.exit(max(main(arguments) for arguments in json.loads(sys.argv[1])))
