"""Readers of other people's region features; `convert.py` brings them into a RegionStore.

| format | file |
|---|---|
| Oscar and VinVL: feature.tsv, .lineidx, label.tsv, yaml | `oscar_tsv.py` |
| bottom-up-attention: .tsv of six columns, one .npz a picture | `bottom_up.py` |
| the nocaps baseline: .h5 | `nocaps_h5.py` |

A reader streams `ForeignPicture`s (`base.py`): it holds one picture at a time, whatever the file's size,
and names file and row in every error.
"""
