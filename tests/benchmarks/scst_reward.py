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

from vivo.program import set_cpu_defaults

set_cpu_defaults()  # as the programs do: PyTorch reads them when it is loaded

# ruff: noqa: E402
# isort: split
import numpy as np
import torch
from training_step import BASE, CLIP, TINY, Letters, Shape, some_regions, some_tags, with_features

from vivo.data.coco import read_captions
from vivo.data.collate import Limits, SampleCollator, to_device
from vivo.metrics.cider import DocumentFrequencies
from vivo.metrics.document_frequencies import END, count_document_frequencies
from vivo.metrics.reward import CaptionReward
from vivo.metrics.tokenizer import ptb_tokenize
from vivo.modeling import VivoForCaptioning
from vivo.training.self_critical import SelfCritical, scst_loss


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


class SelfCriticalUpdate:
    """An update of self-critical training on made-up pictures: 50 regions, 15 tag tokens, five references of ten words.

    Args:
        half: autocast to bfloat16.
        clock: which seconds are told.
    """

    def __init__(
        self,
        shape: Shape,
        pictures: int,
        samples: int,
        device: torch.device,
        half: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.count, self.device, self.half, self.clock = pictures * samples, device, half, clock
        torch.manual_seed(0)
        tokenizer = Letters()
        model = VivoForCaptioning(shape.config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
        with torch.no_grad():  # samples of about ten pieces, as captions have
            model.head.bias[tokenizer.sep_token_id] += 4.0 if shape is TINY else 8.1
        self.model = model.to(device).train()
        model.freeze_vocabulary()
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-6, fused=True)
        rng = np.random.default_rng(0)
        regions = some_regions(np.full(pictures, 50), rng)
        words = tokenizer.convert_ids_to_tokens(range(1000, 1050))
        captions = [[" ".join(rng.choice(words, 10)) for _ in range(5)] for _ in range(pictures)]
        collator = SampleCollator(tokenizer, Limits.of(model.config), 0, samples, 20, 0.0)
        tags = [some_tags(15, shape.vocabulary, rng) for _ in range(pictures)]
        batch = collator([(0, str(n), tags[n], captions[n], regions[n]) for n in range(pictures)])
        self.batch = with_features(batch, shape.features, device)
        reward = CaptionReward(captions)
        self._rewards = 0.0

        def timed(*arguments: Sequence) -> np.ndarray:
            begun = clock()
            found = reward(*arguments)
            self._rewards += clock() - begun
            return found

        self.prepare = SelfCritical(tokenizer, timed, [str(n) for n in range(pictures)], "others")

    def __call__(self) -> dict[str, float]:
        """One update; seconds of the "reward" and of "sampling with reward", and "tokens" of a sample."""
        self._rewards, begun = 0.0, self.clock()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            made = to_device(self.prepare(self.model, self.batch, 0), self.device)
            sampling = self.clock() - begun
            output = self.model(made)
        losses = scst_loss(output, made)
        (losses["loss"] / losses["count"]).backward()
        torch.nn.utils.clip_grad_norm_(self.trained, CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        tokens = made["target_ids"].shape[0] / self.count
        return {"reward": self._rewards, "sampling with reward": sampling, "tokens": tokens}


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
        cpu = torch.device("cpu")
        update = SelfCriticalUpdate(BASE, arguments.pictures, arguments.samples, cpu, clock=time.process_time)
        whole, told = cpu_seconds(update)
        spent = told["reward"]
        print(
            f"update {whole:.1f} s at BERT-base size ({told['tokens']:.1f} tokens a caption), rewards"
            f" {1e3 * spent:.1f} ms of it: {100 * spent / whole:.2f} %"
        )


if __name__ == "__main__":
    main()
