"""vivo: visual vocabulary pre-training for novel object captioning (Hu et al., AAAI 2021).

Importing the package loads no heavy dependency and changes one thing: transformers' auto classes will know its models
(vivo/registration.py). Start at `vivo.captioner.Captioner` to use a model, at `vivo.modeling` to read one.
"""

from vivo.registration import register_with_transformers

__version__ = "0.1.0"

register_with_transformers()
