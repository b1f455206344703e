"""CIDEr-D of sampled captions as a reward of training, with the end of the caption as one of its tokens.

Without it a caption that breaks off ("a man on a") costs nothing and gains the n-grams of its last words, and training
learns to break off (it is what self-critical training is known to do). So references and finished captions end in the
token `END`, and the document frequencies count it. The end by itself weighs nothing (all pictures have it), the n-grams
that it closes do.

References become tokens and vectors once, when the run starts; a call only looks at the captions that it is given, and
nothing grows. Each caption is tokenised by itself, so its reward hangs on no other caption of the batch.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from vivo.errors import UserError
from vivo.metrics.cider import CiderD, DocumentFrequencies
from vivo.metrics.document_frequencies import END, CorpusHash
from vivo.metrics.tokenizer import ptb_tokenize, ptb_tokenize_all


class CaptionReward:
    """CIDEr-D of captions (10 is a perfect match; papers print 100 times this) against their pictures' references.

    Args:
        references: captions of each picture, as people wrote them.
        frequencies: the table that `count_document_frequencies` made of these very captions; None counts them.
        where: of the table, for messages.

    Raises:
        UserError: the table is of other captions, or without ends; fewer than two pictures and no table.
    """

    def __init__(
        self,
        references: Iterable[Sequence[str]],
        frequencies: DocumentFrequencies | None = None,
        where: str = "document frequencies",
    ) -> None:
        pictures = [list(captions) for captions in references]
        if frequencies is not None:
            corpus = CorpusHash()
            for captions in pictures:
                corpus.add(captions)
            if frequencies.corpus != corpus.hexdigest():
                raise UserError(
                    f"{where}: counted over other captions ({frequencies.pictures} pictures) than those of this run "
                    f"({len(pictures)} pictures); make it anew with finetune/prepare_coco.py --document-frequencies, "
                    "or leave scst.frequencies empty"
                )
        tokens = iter(ptb_tokenize_all([caption for captions in pictures for caption in captions]))
        self._scorer = CiderD([[[*next(tokens), END] for _ in captions] for captions in pictures], frequencies, True)

    def __call__(self, captions: Sequence[str], ended: Sequence[bool], pictures: Sequence[int]) -> np.ndarray:
        """float64 [captions]: the reward of each caption; 0 where it has no word.

        Args:
            captions: texts. ended: whether each was finished, and not cut at the longest length.
            pictures: which picture each is of, as a place among the references.
        """
        words = [ptb_tokenize(caption) for caption in captions]
        scores = self._scorer.score(
            [[*tokens, END] if end else tokens for tokens, end in zip(words, ended, strict=True)], pictures
        )
        return np.where([bool(tokens) for tokens in words], scores, 0.0)
