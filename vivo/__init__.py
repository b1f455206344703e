"""vivo: visual vocabulary pre-training for novel object captioning (Hu et al., AAAI 2021).

Importing the package loads no heavy dependency; start at `vivo.captioner.Captioner` to use a model,
at `vivo.modeling` to read one. Its one side effect is two settings of PyTorch on CPU, which PyTorch
reads when it is loaded; what the environment already says is left alone.
"""

import os

# Threads that wait for one another do not spin: on a machine that others use too, spinning made one
# picture's detection take 1,000 ms instead of 13.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Large tensors on large pages: a quarter of a training step was spent on getting small ones from the system.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

__version__ = "0.1.0"
