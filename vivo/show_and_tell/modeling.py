"""The whole model: ShowAndTell (Vinyals et al. 2015, 2016).

    picture ─► ImageEncoder ─► [F] ─► Linear, no bias ─► [E] ─┐ the first input, once
    <S> w1 w2 ..              ─► word embeddings     ─► [E] ─┴► LSTM ─► [H] ─► Linear ─► next word

As published: the picture is fed once, before <S>, into an LSTM whose state is zero, and its output is not read; dropout
on the LSTM's inputs and outputs, not on its state; everything but the encoder begins uniform in +-`initializer_range`,
biases zero, the forget gate's one (BasicLSTMCell's forget_bias).

Pictures come as pixels, or as what the frozen encoder said of them once and for all (phase 1: a step then costs the
LSTM alone). All captions of a picture share its pass through the encoder.

    B pictures, N captions of them, L tokens of a caption, K supervised tokens, V words
    F feature size of the encoder, E width of embeddings, H units of the LSTM
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForImageTextToText, PreTrainedModel, PreTrainedTokenizerFast
from transformers import initialization as init

from vivo.captioning import CaptioningModel, Collate
from vivo.errors import UserError
from vivo.show_and_tell.encoder import ImageEncoder
from vivo.show_and_tell.model_config import ShowAndTellConfig
from vivo.show_and_tell.pictures import PictureCollator, PictureReader, PictureStore

if TYPE_CHECKING:
    from vivo.data.regions import RegionStore


@dataclass
class LstmState:
    """Output and cell of the LSTM, [B, H] or [B, K, H] each."""

    h: Tensor
    c: Tensor


class ShowAndTell(CaptioningModel, PreTrainedModel):
    """Encoder, image embedding, word embeddings, LSTM, softmax over words."""

    config_class = ShowAndTellConfig
    base_model_prefix = "show_and_tell"
    reads_pixels = True
    batch_keys = ("pixels", "features")

    def __init__(self, config: ShowAndTellConfig):
        super().__init__(config)
        self.encoder = ImageEncoder(config)
        self.image = nn.Linear(config.feature_size, config.embedding_size, bias=False)
        self.words = nn.Embedding(config.vocab_size, config.embedding_size)
        self.lstm = nn.LSTM(config.embedding_size, config.lstm_size, batch_first=True)
        self.output = nn.Linear(config.lstm_size, config.vocab_size)
        # PyTorch's LSTM adds two biases, the published one has one
        self.lstm.bias_hh_l0.requires_grad_(False)
        self.register_buffer("feature_mean", torch.zeros(config.feature_size))
        self.register_buffer("feature_scale", torch.ones(config.feature_size))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Of the decoder; the encoder has timm's or is loaded."""
        span = self.config.initializer_range
        if module is self.image or module is self.words or module is self.output:
            init.uniform_(module.weight, -span, span)
            if getattr(module, "bias", None) is not None:
                init.zeros_(module.bias)
        elif module is self.lstm:
            for name, parameter in module.named_parameters():
                if name.startswith("weight"):
                    init.uniform_(parameter, -span, span)
                elif not getattr(parameter, "_is_hf_initialized", False):
                    parameter.zero_()
                    if name == "bias_ih_l0":  # gates: input, forget, cell, output
                        parameter[self.config.lstm_size : 2 * self.config.lstm_size] = 1.0

    def freeze_encoder(self, frozen: bool, batch_norm: str = "frozen", momentum: float = 0.1) -> None:
        """Whether the encoder is trained, and with which batch norms; see `ImageEncoder`.

        Args:
            momentum: of batch norms that are trained: what they learn of the statistics of one batch.
        """
        self.config.encoder_frozen, self.config.batch_norm = frozen, batch_norm
        self.encoder.requires_grad_(not frozen)
        for module in self.encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = momentum
        self.encoder.train(self.training)

    def set_statistics(self, features: Tensor) -> None:
        """Mean and scale of each number of the encoder's output, from a sample [pictures, F] of the training set.

        Raises:
            UserError: it is of one picture, or of the same one many times.
        """
        self.feature_mean.copy_(features.mean(dim=0))
        if len(features) < 2 or not (deviation := features.std(dim=0)).mean() > 0:
            raise UserError(
                f"show_and_tell.standardise_features: the encoder says the same of the {len(features)} pictures that "
                "were looked at, which have no scale; give more pictures, or false"
            )
        self.feature_scale.copy_(1.0 / (deviation + 0.05 * deviation.mean()))

    def checkpoint_activations(self) -> None:
        """Recompute the encoder's blocks in the backward pass.

        Raises:
            UserError: timm cannot do that with this encoder.
        """
        try:
            self.encoder.network.set_grad_checkpointing(True)
        except (AssertionError, AttributeError):
            raise UserError(
                f"engine.activation_checkpointing: the encoder {self.config.encoder} cannot; leave it out"
            ) from None

    def compile(self, **ignored) -> None:
        """torch.compile the encoder, whose inputs always have one shape; the LSTM is a kernel of its own."""
        self.encoder.fold()
        self.encoder.compile(dynamic=False)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """{"logits"}, see `caption_logits`."""
        return {"logits": self.caption_logits(batch)}

    def encode(self, batch: dict[str, Tensor]) -> Tensor:
        """Pixels or features of a batch (vivo/show_and_tell/collate.py) -> image embeddings [B, E]."""
        if "pixels" in batch:
            features = self.encoder(batch["pixels"])
        else:
            features = batch["features"].to(self.image.weight.dtype)
        if self.config.standardise_features:
            # a feature that is rare in the sample can lie hundreds of deviations away
            features = ((features - self.feature_mean) * self.feature_scale).clamp(-8.0, 8.0)
        return self.image(features)

    def caption_logits(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits at the supervised places of captions.

        Args:
            batch: picture keys, and `text_ids` int [N, L], `text_picture` int [N] (the row of each caption's picture),
                `target_index` int [K], places in the flattened [N * L].

        Returns:
            [K, V] in the order of `target_index`.
        """
        images = self.encode(batch)[batch["text_picture"]]
        words = self.words(batch["text_ids"])
        inputs = self._dropped(torch.cat([images.to(words.dtype)[:, None], words], dim=1))
        hidden, _ = self.lstm(inputs)
        # what follows the picture itself is not read
        wanted = hidden[:, 1:].flatten(0, 1).index_select(0, batch["target_index"])
        return self.output(self._dropped(wanted))

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.config.dropout, self.training)

    # ---------------------------------------------------------------- what a captioner offers (vivo/captioning.py)

    def reader(self) -> PictureReader:
        """What cuts pictures as the encoder sees them."""
        return PictureReader(self.config.picture_size, self.config.picture_resize)

    def collator(self, tokenizer: PreTrainedTokenizerFast) -> Collate:
        """Pixels or features of pictures; it needs no words."""
        return PictureCollator()

    def encode_pictures(self, batch: dict[str, Tensor]) -> LstmState:
        """The LSTM after it has seen each picture, [B, H]."""
        _, (h, c) = self.lstm(self.encode(batch).to(self.words.weight.dtype)[:, None])
        return LstmState(h[0], c[0])

    def step(self, context: LstmState, room: int = 0) -> "RecurrentStep":
        """The LSTM a word at a time."""
        return RecurrentStep(self, context)

    def check_store(self, store: "RegionStore | PictureStore") -> None:
        """Pixels must be cut as the encoder knows them, outputs must be those of this very encoder."""
        if isinstance(store, PictureStore):
            store.check_pixels(self.config.picture_size, self.config.picture_resize)
        else:
            store.check_compatible(self.config.region_fingerprint, self.config.feature_size)

    @property
    def never_said(self) -> tuple[int, ...]:
        """<UNK> stands for a word, and is none; the others are no words either."""
        c = self.config
        return tuple({c.pad_token_id, c.unk_token_id, c.cls_token_id, c.mask_token_id})


class RecurrentStep:
    """A step function (vivo/decoding/search.py): each beam has its own state, reordered by copying it.

    Args:
        context: after the pictures, [B, H].
    """

    def __init__(self, model: ShowAndTell, context: LstmState):
        self.model = model
        self.state = LstmState(context.h[:, None], context.c[:, None])

    def __call__(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """int64 [B, K], int64 [B, K] -> float32 [B, K, V]."""
        pictures, beams = tokens.shape
        rows = parents[..., None].expand(-1, -1, self.state.h.shape[2])
        h, c = (x.gather(1, rows).flatten(0, 1)[None] for x in (self.state.h, self.state.c))
        words = self.model.words(tokens.flatten())[:, None]
        hidden, (h, c) = self.model.lstm(words, (h, c))
        self.state = LstmState(h[0].unflatten(0, (pictures, beams)), c[0].unflatten(0, (pictures, beams)))
        return self.model.output(hidden[:, 0]).float().log_softmax(dim=-1).view(pictures, beams, -1)


AutoModel.register(ShowAndTellConfig, ShowAndTell)
AutoModelForImageTextToText.register(ShowAndTellConfig, ShowAndTell)
