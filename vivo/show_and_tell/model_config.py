"""ShowAndTellConfig: the shape of a CNN + LSTM captioner, what it sees of a picture, and what it was trained on.

Apart from vivo/show_and_tell/modeling.py, so that transformers can know the model type early (vivo/registration.py).
"""

from collections.abc import Sequence

from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig


class ShowAndTellConfig(PreTrainedConfig):
    """Shape of the model, and what it was trained on.

    `encoder` is the name of a timm model ("/n" behind it for its first n stages, vivo/detectors/backbone.py), whose
    pooled output has `feature_size` numbers. A picture is squashed to `picture_resize` pixels a side (0: to
    `picture_size`), the middle square of `picture_size` is what the encoder sees, (pixel - mean) / std by channel.
    `standardise_features`: each number of the encoder's output by statistics of the training set.
    `encoder_frozen`, `batch_norm`: how the encoder is, or was last, trained; see vivo/show_and_tell/encoder.py.
    `region_fingerprint` names the RegionStore of encoder outputs that the weights know; "" where the encoder has been
    trained too, so that nothing but pixels will do. `training_stage` is "" (not trained) or "captions".
    The special tokens have BERT's names: [CLS] begins a caption (<S>), [SEP] ends it (</S>), [UNK] is a rare word.
    """

    model_type = "show_and_tell"
    tags_as_text = False  # it reads no tags at all
    max_regions = 1  # the whole picture

    def __init__(
        self,
        vocab_size: int = 12000,
        encoder: str = "inception_v3",
        feature_size: int = 2048,
        picture_size: int = 299,
        picture_resize: int = 346,
        pixel_mean: Sequence[float] = (127.5, 127.5, 127.5),
        pixel_std: Sequence[float] = (127.5, 127.5, 127.5),
        standardise_features: bool = False,
        encoder_frozen: bool = True,
        encoder_dropout: float = 0.0,
        batch_norm: str = "frozen",
        embedding_size: int = 512,
        lstm_size: int = 512,
        dropout: float = 0.3,
        initializer_range: float = 0.08,
        max_caption_tokens: int = 40,
        region_fingerprint: str = "",
        training_stage: str = "",
        words: bool = True,
        pad_token_id: int = 0,
        unk_token_id: int = 1,
        cls_token_id: int = 2,
        sep_token_id: int = 3,
        mask_token_id: int = 4,
        **kwargs,
    ):
        super().__init__(pad_token_id=pad_token_id, **kwargs)
        self.vocab_size = vocab_size
        self.encoder = encoder
        self.feature_size = feature_size
        self.picture_size = picture_size
        self.picture_resize = picture_resize
        self.pixel_mean = list(pixel_mean)
        self.pixel_std = list(pixel_std)
        self.standardise_features = standardise_features
        self.encoder_frozen = encoder_frozen
        self.encoder_dropout = encoder_dropout
        self.batch_norm = batch_norm
        self.embedding_size = embedding_size
        self.lstm_size = lstm_size
        self.dropout = dropout
        self.initializer_range = initializer_range
        self.max_caption_tokens = max_caption_tokens
        self.region_fingerprint = region_fingerprint
        self.training_stage = training_stage
        self.words = words
        self.unk_token_id = unk_token_id
        self.cls_token_id = cls_token_id
        self.sep_token_id = sep_token_id
        self.mask_token_id = mask_token_id


AutoConfig.register(ShowAndTellConfig.model_type, ShowAndTellConfig)
