"""The reward of self-critical training against a scorer of the usual kind, and its share of a training step.

    python tests/benchmarks/scst_reward.py CAPTIONS.json            scorer against scorer, on a COCO caption file
    python tests/benchmarks/scst_reward.py CAPTIONS.json --step     also an update of BERT-base size (minutes on a CPU)
    options: --pictures N (64), --samples N (5), --rounds N (20)

Both score the same sampled captions (other pictures' captions, cut and mixed) of 64 pictures x 5 samples against 5
references, with the document frequencies of all captions of the file. The usual scorer is written here as pycocoevalcap
and the code of the field have it: dictionaries of n-gram tuples, references cooked anew in every call. It is told the
tokens; ours is timed from the captions' text on, tokenising included. Times are CPU time of one thread, best and median
of the rounds, the two by turns; scores have to agree to 1e-9.
"""

import argparse
import math
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from vivo.data.coco import read_captions
from vivo.metrics.cider import DocumentFrequencies
from vivo.metrics.document_frequencies import END, count_document_frequencies
from vivo.metrics.reward import CaptionReward
from vivo.metrics.tokenizer import ptb_tokenize


class UsualScorer:
    """CIDEr-D with dictionaries of n-grams, as the field's code computes it in every training step."""

    def __init__(self, table: DocumentFrequencies):
        self.frequencies = defaultdict(float, {tuple(k.split()): float(v) for k, v in table.counts.items()})
        self.log_pictures = math.log(table.pictures)

    def score(self, captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        """One score a caption (10 is perfect), from tokens joined by spaces."""
        found = []
        for caption, texts in zip(captions, references, strict=True):
            vector, norm, length = self.vector(self.cook(caption))
            total = np.zeros(4)
            for text in texts:
                total += self.similarity(vector, norm, length, *self.vector(self.cook(text)))
            found.append(float(np.mean(total)) / len(texts) * 10.0)
        return found

    def cook(self, text: str) -> Counter:
        """How often each n-gram stands in a text."""
        words = text.split()
        return Counter(tuple(words[i : i + n]) for n in range(1, 5) for i in range(len(words) - n + 1))

    def vector(self, counts: Counter) -> tuple[list[dict], list[float], int]:
        """tf-idf of each order, norms, length in bigrams."""
        vector: list[dict] = [{} for _ in range(4)]
        norm, length = [0.0] * 4, 0
        for ngram, count in counts.items():
            idf = self.log_pictures - math.log(max(1.0, self.frequencies.get(ngram, 0.0)))
            order = len(ngram) - 1
            vector[order][ngram] = count * idf
            norm[order] += (count * idf) ** 2
            if order == 1:
                length += count
        return vector, [math.sqrt(n) for n in norm], length

    def similarity(self, ours, our_norm, our_length, theirs, their_norm, their_length) -> np.ndarray:
        """Of each order: clipped cosine, times the penalty of unequal lengths."""
        value = np.zeros(4)
        for order in range(4):
            for ngram, weight in ours[order].items():
                other = theirs[order].get(ngram, 0.0)
                value[order] += min(weight, other) * other
            if our_norm[order] and their_norm[order]:
                value[order] /= our_norm[order] * their_norm[order]
            value[order] *= math.exp(-((our_length - their_length) ** 2) / (2 * 6.0**2))
        return value


def sampled(pictures: Sequence[Sequence[str]], count: int, samples: int, rng: np.random.Generator) -> list[str]:
    """Captions such as a model samples: words of the picture's captions and of others', some cut."""
    found = []
    for place in range(count):
        for _ in range(samples):
            own = pictures[place][rng.integers(len(pictures[place]))].split()
            other = pictures[rng.integers(len(pictures))][0].split()
            words = own[: rng.integers(1, len(own) + 1)] + other[rng.integers(len(other)) :]
            found.append(" ".join(words[:18]))
    return found


def cpu_seconds(work: Callable[[], object]) -> tuple[float, object]:
    """CPU time of one call, and its result."""
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


def step_seconds(pictures: int, samples: int) -> tuple[float, float]:
    """CPU time of one self-critical update at BERT-base size (50 regions, 15 tag tokens, fp32), and of its rewards."""
    import torch

    from vivo.data.collate import Limits, SampleCollator
    from vivo.data.text import load_tokenizer
    from vivo.data.types import Regions
    from vivo.modeling import VivoConfig, VivoForCaptioning
    from vivo.training.self_critical import SelfCritical, scst_loss
    from vivo.weights import bert_folder

    torch.manual_seed(0)
    tokenizer = load_tokenizer(bert_folder("minilm"))
    model = VivoForCaptioning(VivoConfig(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)).train()
    model.freeze_vocabulary()
    with torch.no_grad():  # samples of about ten pieces, as captions have
        model.head.bias[tokenizer.sep_token_id] += 8.1
    rng = np.random.default_rng(0)
    regions = [
        Regions(
            np.tile(np.array([0, 0, 9, 9], dtype=np.float32), (50, 1)),
            rng.standard_normal((50, 2048), dtype=np.float32),
            [""] * 50,
            np.ones(50, dtype=np.float32),
            10,
            10,
        )
        for _ in range(pictures)
    ]
    captions = [[f"a dog and a number {n}", "a dog on the grass"] for n in range(pictures)]
    words = ["dog", "cat", "grass", "table", "man", "street", "car", "tree", "sky", "house", "boy", "ball", "hat"]
    collator = SampleCollator(tokenizer, Limits.of(model.config), 0, samples, 20, 0.0)
    batch = collator([(0, str(n), words, captions[n], regions[n]) for n in range(pictures)])
    spent = 0.0
    reward = CaptionReward(captions)

    def timed(*arguments: Sequence) -> np.ndarray:
        nonlocal spent
        seconds, scores = cpu_seconds(lambda: reward(*arguments))
        spent += seconds
        return scores

    prepare = SelfCritical(tokenizer, timed, [str(n) for n in range(pictures)], "others")

    def update() -> None:
        made = prepare(model, batch, 0)
        print(f"  sampled {made['target_ids'].shape[0] / (pictures * samples):.1f} tokens a caption")
        scst_loss(model(made), made)["loss"].backward()

    whole, _ = cpu_seconds(update)
    return whole, spent


def main() -> None:
    """Measure and print; exit status 1 where the scores differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captions", type=Path)
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--step", action="store_true")
    arguments = parser.parse_args()
    corpus = [example.captions[:5] for example in read_captions(arguments.captions)]
    table = count_document_frequencies(corpus)
    began = time.process_time()
    reward = CaptionReward(corpus, table)
    ready = time.process_time() - began
    print(f"{len(corpus)} pictures, {len(table.counts)} n-grams; references made ready in {ready:.1f} s")
    usual = UsualScorer(table)
    rng = np.random.default_rng(0)
    places = np.repeat(np.arange(arguments.pictures), arguments.samples)
    references = [[" ".join([*ptb_tokenize(c), END]) for c in corpus[place]] for place in places]
    times: dict[str, list[float]] = {"usual": [], "ours": []}
    for _ in range(arguments.rounds):
        captions = sampled(corpus, arguments.pictures, arguments.samples, rng)  # new ones, as in each step
        ended = [True] * len(captions)
        tokens = [" ".join([*ptb_tokenize(c), END]) for c in captions]
        seconds, expected = cpu_seconds(lambda: usual.score(tokens, references))  # noqa: B023
        times["usual"].append(seconds)
        seconds, found = cpu_seconds(lambda: reward(captions, ended, places))  # noqa: B023
        times["ours"].append(seconds)
        assert np.abs(found - np.array(expected)).max() < 1e-9, "the scorers disagree"
    for name, values in times.items():
        print(f"{name:6} {1e3 * min(values):6.1f} ms best, {1e3 * statistics.median(values):6.1f} ms median")
    best, median = (f(times["usual"]) / f(times["ours"]) for f in (min, statistics.median))
    print(f"ratio  {best:.1f} best, {median:.1f} median ({arguments.pictures} x {arguments.samples} samples)")
    if arguments.step:
        whole, spent = step_seconds(arguments.pictures, arguments.samples)
        print(
            f"update {whole:.1f} s at BERT-base size, rewards {1e3 * spent:.1f} ms of it: {100 * spent / whole:.2f} %"
        )


if __name__ == "__main__":
    main()
