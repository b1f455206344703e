"""The word vocabulary of Show and Tell: the words that occur often enough in the training captions, each a token.

As published (build_mscoco_data.py): lower case, words that occur at least 4 times, all others are one unknown word, the
commonest first. Two differences: words are split as BERT splits them before its pieces ("don't" is don ' t, NLTK has do
n't), so that the one way back to text (vivo/data/text.py) serves here too; and the special tokens have BERT's names.
"""

from collections import Counter
from collections.abc import Iterable

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from vivo.errors import UserError

SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}


def count_words(captions: Iterable[str]) -> Counter[str]:
    """How often each word occurs."""
    rules, split = _normalizer(), pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()
    for caption in captions:
        counts.update(word for word, _ in split.pre_tokenize_str(rules.normalize_str(caption)))
    return counts


def word_tokenizer(captions: Iterable[str], least: int) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are the words that occur `least` times or more, the commonest first (ties by letters).

    Raises:
        UserError: no word does.
    """
    counts = count_words(captions)
    kept = sorted((word for word, count in counts.items() if count >= least), key=lambda word: (-counts[word], word))
    if not kept:
        raise UserError(
            f"show_and_tell.least_count: no word of the captions occurs {least} times; give a smaller number"
        )
    number = {word: place for place, word in enumerate([*SPECIAL.values(), *kept])}
    rules = Tokenizer(models.WordLevel(number, unk_token=SPECIAL["unk"]))
    rules.normalizer = _normalizer()
    rules.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(SPECIAL[name], number[SPECIAL[name]]) for name in ("cls", "sep")]
    rules.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ends)
    names = {f"{name}_token": token for name, token in SPECIAL.items()}
    return PreTrainedTokenizerFast(tokenizer_object=rules, **names)


def _normalizer() -> normalizers.Normalizer:
    return normalizers.BertNormalizer(lowercase=True)
