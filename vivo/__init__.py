"""vivo: visual vocabulary pre-training for novel object captioning (Hu et al., AAAI 2021).

Importing the package has no side effects and loads no heavy dependency; start at
`vivo.captioner.Captioner` to use a model, at `vivo.modeling` to read one.
"""

__version__ = "0.1.0"
