"""Scores of captions: tokenisation, BLEU, ROUGE-L, CIDEr-D, F1 of named objects, bootstrap. Needs no Java."""
