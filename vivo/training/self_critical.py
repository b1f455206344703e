"""Self-critical sequence training (Rennie et al. 2017): the captions that a model samples are rewarded by CIDEr-D, and
those that beat their baseline are made more likely.

    pictures ─► samples (cached decoding, no dropout, no gradient) ─► rewards ─► advantages ┐
                     └─► one teacher-forced pass with gradient over all samples ────────────┴─► loss

An update is one of the engine's: `SelfCritical` turns the collator's pictures into a batch of the text kind, in which
the sampled captions stand where fine-tuning has the true ones, each token asked for by a [MASK] that sees the tokens
before it: exactly the question that decoding has asked (`dense_text`), so the probabilities are those of the sampler.
All samples of a picture share one pass over its tags and regions.

    advantages float32 [K]     of each target: reward of its caption less the baseline
    sampled_log_p float32 [K]  what the sampler found for it
    rewards, baselines float32 [B, n];  words, ended, distinct float32 [B]     for the log

Dropout: samples are of the model as it will be used, without any. For the gradient to be of that model too,
configurations of this stage have `model.dropout: 0`; with more, the log's `off_policy` says how far the two are apart.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from vivo.captioning import CaptioningModel
from vivo.data.caption_text import dense_text, text_keys
from vivo.data.collate import Batch, to_device
from vivo.data.text import decode_caption
from vivo.decoding.sampling import sample
from vivo.decoding.search import Hypothesis, greedy_search
from vivo.errors import UserError
from vivo.losses import self_critical_loss
from vivo.metrics.reward import CaptionReward
from vivo.training.checkpoint import is_sharded

Supervised = Callable[[Sequence[Sequence[Sequence[int]]], PreTrainedTokenizerFast], Batch]
"""Text keys of a batch from captions [picture][caption][token], [CLS] first: every token behind it is a target, in
this order."""


def dense_captions(rows: Sequence[Sequence[Sequence[int]]], tokenizer: PreTrainedTokenizerFast) -> Batch:
    """`Supervised` as VIVO has it: a [MASK] for each token (vivo/data/caption_text.py)."""
    texts = [[dense_text(tokens, tokenizer.mask_token_id) for tokens in row] for row in rows]
    return text_keys(texts, tokenizer.pad_token_id)


def others_baseline(rewards: np.ndarray) -> np.ndarray:
    """[B, n] -> [B, n]: of each sample the mean reward of its picture's other samples, on which it has no influence."""
    return (rewards.sum(axis=1, keepdims=True) - rewards) / (rewards.shape[1] - 1)


class SelfCritical:
    """From the pictures of a SampleCollator to a batch of sampled captions with their advantages.

    Args:
        reward: its pictures are `image_ids`, in that order.
        baseline: "others" or "greedy".
        supervised: how the captioner's batches have captions.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        reward: CaptionReward,
        image_ids: Sequence[str],
        baseline: str,
        supervised: Supervised = dense_captions,
    ) -> None:
        self.tokenizer, self.reward, self.baseline, self.supervised = tokenizer, reward, baseline, supervised
        self._place = {image_id: place for place, image_id in enumerate(image_ids)}

    def __call__(self, model: CaptioningModel, batch: Batch, step: int) -> Batch:
        """Sample and score (the step has no part in it: all randomness is in the batch).

        Raises:
            UserError: the parameters are cut over processes, and sampling goes around what puts them together.
        """
        if is_sharded(model):
            raise UserError("objective scst does not run with sharded parameters (FSDP); start it with plain processes")
        draws = batch["draws"]
        samples, greedy = self.decode(model, to_device(batch, model.device))
        pictures, count, _ = draws.shape
        places = [self._place[image_id] for image_id in batch["image_ids"]]
        rewards = self._rewards([s for row in samples for s in row], np.repeat(places, count))
        rewards = rewards.reshape(pictures, count)
        if greedy:
            baselines = np.broadcast_to(self._rewards(greedy, places)[:, None], rewards.shape)
        else:
            baselines = others_baseline(rewards)
        return {name: value for name, value in batch.items() if name != "draws"} | self.text(
            samples, torch.from_numpy(rewards), torch.from_numpy(baselines.copy())
        )

    @torch.no_grad()
    def decode(self, model: CaptioningModel, batch: Batch) -> tuple[list[list[Hypothesis]], list[Hypothesis]]:
        """Samples of each picture by the batch's random numbers, and with baseline "greedy" its greedy caption."""
        config, draws, training = model.config, batch["draws"], model.training
        model.eval()
        try:
            context = model.encode_pictures(batch)
            ends = (config.cls_token_id, config.sep_token_id)
            pictures, count, most = draws.shape
            samples = sample(model.step(context, count * (most + 1)), draws, *ends)
            greedy = []
            if self.baseline == "greedy":
                step = model.step(context, most + 1)
                greedy = greedy_search(step, pictures, *ends, most, device=draws.device)
        finally:
            model.train(training)
        return samples, greedy

    def text(self, samples: list[list[Hypothesis]], rewards: Tensor, baselines: Tensor) -> Batch:
        """Text keys of a batch, and those of the module's docstring, from samples with rewards [B, n]."""
        cls, sep = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        rows = [[[cls, *s.tokens, *[sep] * s.ended] for s in row] for row in samples]
        lengths = torch.tensor([len(tokens) - 1 for row in rows for tokens in row])
        log_p = [p for row in samples for s in row for p in s.token_log_probabilities]
        by_picture = {
            "words": [[len(s.tokens) for s in row] for row in samples],
            "ended": [[s.ended for s in row] for row in samples],
            "distinct": [[len({tuple(s.tokens) for s in row}) / len(row)] for row in samples],
        }
        return self.supervised(rows, self.tokenizer) | {
            "advantages": (rewards - baselines).flatten().repeat_interleave(lengths).float(),
            "sampled_log_p": torch.tensor(log_p, dtype=torch.float32),
            "rewards": rewards.float(),
            "baselines": baselines.float(),
            **{name: torch.tensor(rows, dtype=torch.float32).mean(dim=1) for name, rows in by_picture.items()},
        }

    def _rewards(self, found: Sequence[Hypothesis], places: Sequence[int]) -> np.ndarray:
        captions = [decode_caption(self.tokenizer, h.tokens) for h in found]
        return self.reward(captions, [h.ended for h in found], places)


def scst_loss(output: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
    """`self_critical_loss` of a batch that `SelfCritical` made, and what the log has of it.

    Per token: loss, entropy (nats), off_policy = |log p of this pass - log p of the sampler|. Per picture, means over
    its samples: reward, baseline, advantage = |reward - baseline|, words (pieces), ended, distinct (share).
    """
    losses = self_critical_loss(output["logits"], batch["target_ids"], batch["advantages"])
    gap = (losses.pop("log_p") - batch["sampled_log_p"]).abs().sum()
    rewards, baselines = batch["rewards"], batch["baselines"]
    by_picture = {
        "reward": rewards.mean(dim=1),
        "baseline": baselines.mean(dim=1),
        "advantage": (rewards - baselines).abs().mean(dim=1),
        **{name: batch[name] for name in ("words", "ended", "distinct")},
    }
    return losses | {"off_policy": gap} | {f"{name}_per_picture": value.sum() for name, value in by_picture.items()}
