"""VivoConfig: the shape of a model, how its input is laid out, and what it was trained on.

Apart from vivo/modeling.py, so that transformers can know the model type early (vivo/registration.py).
"""

from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig


class VivoConfig(PreTrainedConfig):
    """Shape of the model, and what it was trained on.

    Lengths: `max_caption_tokens` caption positions are 0 .. max_caption_tokens - 1; tags start at
    `tag_position_offset` in pre-training, fine-tuning and inference alike (the paper does not say;
    Oscar-derived code lets the positions differ between the stages).
    `tag_slots`: where the tags to predict stand in pre-training, "tags" (segment and positions of tags) or "caption"
    (those of the words of a caption).
    `tags_as_text`: the tags of a picture are one text, as Oscar's models know them: repetitions stay, the cut may go
    through a tag, no gap of positions between tags, [SEP] behind the last.
    `tie_word_embeddings`: False where the masked-token head has output weights of its own (Oscar's default).
    `region_fingerprint` names the RegionStore whose features the weights know; `training_stage` is
    "" (not trained), the objective of pre-training ("tags", "pairs", "both": with tags it knows a visual vocabulary; it
    is not fine-tuned yet) or "captions".
    """

    model_type = "vivo"

    def __init__(
        self,
        vocab_size: int = 30522,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        intermediate_size: int = 3072,
        max_position_embeddings: int = 512,
        type_vocab_size: int = 2,
        layer_norm_eps: float = 1e-12,
        hidden_dropout_prob: float = 0.1,
        attention_probs_dropout_prob: float = 0.1,
        initializer_range: float = 0.02,
        feature_size: int = 2048,
        tie_word_embeddings: bool = True,
        region_layer_norm: bool = False,
        region_layer_norm_eps: float = 1e-12,
        standardise_regions: bool = False,
        tag_segment: int = 1,
        tag_slots: str = "tags",
        tags_as_text: bool = False,
        max_regions: int = 50,
        max_tag_tokens: int = 30,
        max_caption_tokens: int = 40,
        tag_position_offset: int = 40,
        region_fingerprint: str = "",
        training_stage: str = "",
        pad_token_id: int = 0,
        cls_token_id: int = 101,
        sep_token_id: int = 102,
        mask_token_id: int = 103,
        **kwargs,
    ):
        super().__init__(pad_token_id=pad_token_id, **kwargs)
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.max_position_embeddings = max_position_embeddings
        self.type_vocab_size = type_vocab_size
        self.layer_norm_eps = layer_norm_eps
        self.hidden_dropout_prob = hidden_dropout_prob
        self.attention_probs_dropout_prob = attention_probs_dropout_prob
        self.initializer_range = initializer_range
        self.feature_size = feature_size
        self.tie_word_embeddings = tie_word_embeddings
        self.region_layer_norm = region_layer_norm
        self.region_layer_norm_eps = region_layer_norm_eps
        self.standardise_regions = standardise_regions
        self.tag_segment = tag_segment
        self.tag_slots = tag_slots
        self.tags_as_text = tags_as_text
        self.max_regions = max_regions
        self.max_tag_tokens = max_tag_tokens
        self.max_caption_tokens = max_caption_tokens
        self.tag_position_offset = tag_position_offset
        self.region_fingerprint = region_fingerprint
        self.training_stage = training_stage
        self.cls_token_id = cls_token_id
        self.sep_token_id = sep_token_id
        self.mask_token_id = mask_token_id


AutoConfig.register(VivoConfig.model_type, VivoConfig)
