"""CIDEr's document frequencies of a caption file, counted block by block.

`DocumentFrequencies.of` wants all tokenised captions at once; those of COCO's 123,287 pictures are gigabytes of
Python objects. Here only the counts grow.

Every caption is counted with `END` behind its last token, as rewards want it (vivo/metrics/reward.py). That adds
n-grams and changes none, so the same table serves plain CIDEr-D too.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from vivo.errors import UserError
from vivo.metrics.cider import DocumentFrequencies
from vivo.metrics.tokenizer import ptb_tokenize_all

END = "<eos>"
"""The token that stands for the end of a caption."""
_BLOCK = 1_000  # pictures


class CorpusHash:
    """SHA-256 of the captions of pictures, in whatever order the pictures come: the n-gram counts have none either."""

    def __init__(self) -> None:
        self._pictures: list[bytes] = []

    def add(self, captions: Sequence[str]) -> None:
        """One picture."""
        self._pictures.append(hashlib.sha256(json.dumps(list(captions)).encode()).digest())

    def hexdigest(self) -> str:
        """Of all pictures so far."""
        return hashlib.sha256(b"".join(sorted(self._pictures))).hexdigest()


def count_document_frequencies(
    pictures: Iterable[Sequence[str]], watch: Callable[[int], None] | None = None
) -> DocumentFrequencies:
    """How many pictures have each n-gram (n = 1..4) in their captions, their ends included.

    Equal to `DocumentFrequencies.of` the captions tokenised all at once, each with `END` behind it.

    Args:
        pictures: captions of each picture, as people wrote them.
        watch: called with the number of pictures counted so far, now and then.

    Raises:
        UserError: no pictures.
    """
    counts: Counter[str] = Counter()
    corpus, total = CorpusHash(), 0
    rest = iter(pictures)
    block = list(islice(rest, _BLOCK))
    while block:
        following = list(islice(rest, _BLOCK))
        captions = [caption for texts in block for caption in texts]
        # The last caption's tokens may hang on the caption after it (see `vivo.metrics.tokenizer`).
        after = next((texts[0] for texts in following if texts), "")
        tokens = iter(ptb_tokenize_all([*captions, after]))
        counts.update(DocumentFrequencies.of([[[*next(tokens), END] for _ in texts] for texts in block]).counts)
        for texts in block:
            corpus.add(texts)
        total += len(block)
        if watch is not None:
            watch(total)
        block = following
    if total == 0:
        raise UserError("document frequencies of no pictures: there are no captions to count")
    return DocumentFrequencies(total, counts, corpus.hexdigest())
