"""Scheduled sampling (Bengio et al. 2015): while it learns, the LSTM sometimes reads its own word, not the true one.

Which of the true words are exchanged, and for what, is decided by a pass without gradient, a word after the other: with
probability `share` an input is drawn from what the model says of the words before it (drawn ones among them). Then one
pass with gradient over the whole mixed text asks for the true words. Nothing goes back through the draw in the
original either, so the two passes are what one would be, but for dropout, which the first does without.
"""

import torch
from transformers import PreTrainedModel

from vivo.data.collate import Batch, to_device
from vivo.decoding.sampling import draw
from vivo.show_and_tell.modeling import LstmState, RecurrentStep, ShowAndTell
from vivo.training.schedule import Schedule


class ScheduledSampling:
    """`Task.prepare`: from a batch with `draws` to one whose `text_ids` are mixed; the log has the share.

    Args:
        most: share of drawn words in the last update; `schedule.scheduled_share` says how it rises to that.
    """

    def __init__(self, schedule: Schedule, most: float):
        self.schedule, self.most = schedule, most

    def __call__(self, model: PreTrainedModel, batch: Batch, step: int) -> Batch:
        share = self.schedule.scheduled_share(step, self.most)
        draws = batch["draws"]
        batch = {name: value for name, value in batch.items() if name != "draws"}
        return batch | {"text_ids": mixed(model, batch, draws, share)} if share else batch


@torch.no_grad()
def mixed(model: ShowAndTell, batch: Batch, draws: torch.Tensor, share: float) -> torch.Tensor:
    """int64 [N, L]: `text_ids` with drawn words. [CLS] stays; what stands behind the end of a caption is not read.

    Args:
        draws: float64 [N, L, 2] in [0, 1): whether place i is exchanged, and the word there.
    """
    training = model.training
    model.eval()
    try:
        on_device = to_device(batch | {"draws": draws}, model.device)
        of_pictures, rows = model.encode_pictures(on_device), on_device["text_picture"]
        predict = RecurrentStep(model, LstmState(of_pictures.h[rows], of_pictures.c[rows]))
        ids, draws = on_device["text_ids"].clone(), on_device["draws"]
        beam = torch.zeros_like(ids[:, :1])
        for place in range(1, ids.shape[1]):
            log_p = predict(ids[:, place - 1 : place], beam)
            word = draw(log_p, draws[:, place, 1:])
            exchanged = draws[:, place, :1] < share
            ids[:, place : place + 1] = torch.where(exchanged, word, ids[:, place : place + 1])
    finally:
        model.train(training)
    return ids.to(batch["text_ids"].device)
