"""Run configurations: what a run does, in typed fields with their defaults, ranges and meaning.

    config = load_config("configs/world.yaml", ["optim.lr=1e-4"])
    print(to_yaml(config))

The defaults below are overlaid by YAML files, which name what they are `base`d on, and by dotted
overrides from the command line; how is told in `vivo.config_layers`. All paths are relative to the
working directory, as for any command, except `base:`, which is relative to the file that names it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import OmegaConf

from vivo.config_checks import check_decoding, check_evaluation, check_training
from vivo.config_layers import at_least, between, duration, load_layers, one_of, value_problems
from vivo.errors import UserError


@dataclass
class ModelConfig:
    """Shape of the model and what of it is trained. Text weights that are loaded bring their own shape."""

    # Cut the encoder to the first n layers of `init`; null keeps all of them.
    layers: int | None = at_least(None, 1)
    # File of the word pieces to keep of the text model's vocabulary, one a line (vivo/data/vocabulary.py);
    # "" keeps all. A smaller softmax is most of the speed of a small model on a CPU.
    vocabulary: str = ""
    # Width, heads and feed-forward width, for `init: random` only.
    hidden_size: int = at_least(384, 1)
    heads: int = at_least(12, 1)
    intermediate_size: int = at_least(1536, 1)
    # One probability for every dropout of the encoder.
    dropout: float = between(0.1, 0.0, 1.0)
    # Layer norm behind the region projection (the paper is silent, Oscar has it as an option).
    region_layer_norm: bool = False
    # Standardise each region feature by the training set's statistics, taken once when training starts
    # from text weights or "random". Features of unlike sizes are learned several times faster.
    standardise_regions: bool = False
    # Segment embedding of tags; captions have 0. Not stated in the paper; Oscar has 1.
    tag_segment: int = between(1, 0, 1)
    # Where the tags to predict stand in pre-training: among the tags, or where the words of a caption will
    # stand (segment 0, positions from 1 on), so that a caption's [MASK] asks as a tag's [MASK] has asked. The paper is
    # silent; Oscar-derived code has positions from 0 on for tags in pre-training and behind the caption later.
    tag_slots: str = one_of("tags", "caption")
    # Keep the (tied) word embeddings as they are. Fine-tuning needs it: captions name few objects, and
    # cross-entropy on them otherwise pushes down, and so forgets, every word that no caption contains.
    freeze_embeddings: bool = False
    # Keep the output bias, one number per word piece, for the same reason.
    freeze_head_bias: bool = False
    # Longest sequences; what is beyond is cut (regions by falling score, tags whole).
    max_regions: int = at_least(50, 1)
    max_tag_tokens: int = at_least(30, 1)
    max_caption_tokens: int = at_least(40, 3)


@dataclass
class DataConfig:
    """Which pictures, tags and captions a run reads."""

    # RegionStore of the training pictures.
    regions: str = ""
    # What to learn from them: image-level labels (objectives tags, both) or COCO-style captions (objective captions).
    examples: str = ""
    # Objectives pairs and both: captioned pictures (as `examples` of fine-tuning), their RegionStore, of the same
    # detector ("" = `regions`), and the tags that the model sees beside their captions: as `tags` of fine-tuning.
    pairs: str = ""
    pairs_regions: str = ""
    pairs_tags: str = one_of("detector", "labels", "both", "none", "file")
    # Objective both: share of the updates that are of pairs, spread evenly; with 0.5 they alternate, tags first.
    pairs_share: float = between(0.5, 0.0, 1.0)
    # Fine-tuning: RegionStore and references of the pictures that are captioned at each validation; "" = none.
    validation_regions: str = ""
    validation_references: str = ""
    # Folder of the picture files of validation, for tables that show them with their boxes; "" = without pixels. Show
    # and Tell captions from them ("" = from `pictures`) where there is no `validation_regions`.
    validation_pictures: str = ""
    # Show and Tell: folder of the picture files that `examples` name.
    pictures: str = ""
    # Objectives tags and both: share of the pictures of `examples` kept out of training (of `pairs`, too), from whose
    # regions the tags are read at each validation.
    validation_share: float = between(0.0, 0.0, 0.5)
    # The tags that the model sees: image-level labels, the detector's class names, both, none at all, those of
    # a tag file, or (fine-tuning) what the pre-trained model writes itself.
    tags: str = one_of("labels", "detector", "both", "none", "file", "self")
    # For tags: file, lines {"image_id", "tags"} for all pictures, those of validation too.
    tag_file: str = ""
    # Pre-training: other tags that the model sees beside those it must predict, and never has to predict
    # itself: none, the detector's class names, or those of `tag_file`. They are what there is at inference.
    hints: str = one_of("none", "detector", "file")
    # Beside captions: leave out tags that no training caption names. A tag that is there but never
    # said teaches not to say it, and so takes back what pre-training has taught.
    named_tags_only: bool = False
    # For tags: self, the model folder of pretrain/train.py; "" = `init`.
    tagger: str = ""
    # Share of a picture's tags (beside captions; hints beside masked tags) and of its regions left out at random in
    # training.
    tag_dropout: float = between(0.0, 0.0, 1.0)
    region_dropout: float = between(0.0, 0.0, 1.0)
    # JSON list of the tag names that pre-training keeps; "" keeps every tag.
    vocabulary: str = ""
    # Captions of one picture in one batch row (fine-tuning, pairs); they share the pass over its regions and tags.
    captions_per_picture: int = at_least(1, 1)
    # Loader processes; 0 reads in the training process.
    workers: int = at_least(0, 0)


@dataclass
class MaskingConfig:
    """What is hidden from the model for it to predict."""

    # Share of a picture's tags that is masked, drawn evenly between the two; the paper has 0.15 for both.
    share_min: float = between(0.15, 0.0, 1.0)
    share_max: float = between(1.0, 0.0, 1.0)
    # Mask no more tags than this; 0 = no limit, 1 = the "one mask" row of the paper's Table 6.
    at_most: int = at_least(0, 0)
    # Share of the masked tags of several pieces that are asked for piece by piece, as captions are written;
    # 0 = the paper, whole tags only.
    next_piece: float = between(0.0, 0.0, 1.0)
    # Captions, in fine-tuning and as pairs of pre-training: "dense" asks for every token in one pass, each from the
    # true tokens to its left; "masked" hides a share of them (the paper), and takes longer to the same CIDEr.
    caption: str = one_of("dense", "masked")
    # Share of caption tokens that "masked" hides, and how many at most; 0 = no limit (Oscar has 3).
    caption_probability: float = between(0.15, 0.0, 1.0)
    caption_at_most: int = at_least(0, 0)


@dataclass
class LossConfig:
    """What is minimised."""

    # Match masked tags with their slots by the cheapest assignment; false = in the order they are fed.
    hungarian: bool = True
    # Word pieces that compete in the softmax: all (the paper), or those that the run's own targets use, so that
    # no word is pushed down because this stage does not say it.
    competing: str = one_of("all", "used")
    # Caption loss: share of the target's probability that is spread evenly over all other pieces.
    label_smoothing: float = between(0.0, 0.0, 0.99)
    # Caption loss: share of the tokens of a forward pass, those of the largest loss, that are left out as noise, and
    # from when on ("" = from the start). VinVL on COCO: 0.2 after 20,000 updates.
    drop_worst: float = between(0.0, 0.0, 0.99)
    drop_worst_from: str = duration()


@dataclass
class ScstConfig:
    """Self-critical training (objective scst): captions are sampled, and the better ones made more likely."""

    # Captions sampled of each picture in an update.
    samples: int = at_least(5, 1)
    # Longest sampled caption, in word pieces.
    max_tokens: int = at_least(20, 1)
    # What a sample's reward is compared with: the mean of the picture's other samples, or the reward of its greedy
    # caption (Oscar, VinVL), which costs a search more.
    baseline: str = one_of("others", "greedy")
    # Table of the training captions' n-grams for CIDEr-D (finetune/prepare_coco.py --document-frequencies); "" =
    # counted when the run starts.
    frequencies: str = ""


@dataclass
class RecurrentConfig:
    """Show and Tell (objective show_and_tell): the CNN + LSTM captioner; docs/show_and_tell.md."""

    # Image encoder: the name of a timm model, "/n" behind it for its first n stages of blocks.
    encoder: str = "tf_efficientnet_lite0"
    # Its weights where training starts: a file (a pickle needs its `sha256`), "random", or "" for those of
    # EfficientNet-Lite0 that pip brings.
    weights: str = ""
    sha256: str = ""
    # Side of the square that the encoder sees, in pixels, and the side that a picture is squashed to before the square
    # is cut out of its middle; 0 = the same, nothing is cut.
    picture_size: int = at_least(224, 32)
    picture_resize: int = at_least(0, 0)
    # Pixels in training, where the encoder's outputs are not kept: as they are, mirrored half of the time, cut at
    # random places too, in other colours too.
    augment: str = one_of("none", "flip", "cut", "distort")
    # The encoder as it is (its outputs are computed once, into `data.regions`), or trained with the rest.
    freeze_encoder: bool = True
    # Batch norms of a trained encoder: with the statistics that they have, or with those of each batch, of which they
    # learn, with each, this share.
    batch_norm: str = one_of("frozen", "trained")
    batch_norm_momentum: float = between(0.1, 0.0, 1.0)
    # Dropout on the output of a trained encoder.
    encoder_dropout: float = between(0.0, 0.0, 1.0)
    # Standardise each number of the encoder's output by the training set's statistics, taken once when training starts.
    standardise_features: bool = False
    # Width of word and image embeddings, units of the LSTM, and the range of their uniform initial weights.
    embedding_size: int = at_least(512, 1)
    lstm_size: int = at_least(512, 1)
    init_range: float = at_least(0.08, 0.0)
    # Tokens: words that occur `least_count` times or more in the training captions, or BERT's word pieces
    # (all, or those of `model.vocabulary`).
    vocabulary: str = one_of("words", "pieces")
    least_count: int = at_least(4, 1)
    # Scheduled sampling: share of the LSTM's input words that are drawn from the model itself at the end of the run; it
    # rises on a line from 0 at `scheduled_from`.
    scheduled_sampling: float = between(0.0, 0.0, 1.0)
    scheduled_from: str = duration()


@dataclass
class OptimConfig:
    """The optimizer, its learning rate as a function of the step, and how long to train."""

    # AdamW, or plain gradient descent with `momentum`.
    optimizer: str = one_of("adamw", "sgd")
    momentum: float = between(0.0, 0.0, 0.999999)
    # Peak learning rate, reached after `warmup`.
    lr: float = at_least(1e-4, 0.0)
    # How it goes on from there to the last step: to zero on a line or a half cosine, not at all, or in stairs, times
    # `decay_factor` after each `decay_every`.
    schedule: str = one_of("linear", "cosine", "constant", "stairs")
    decay_every: str = duration()
    decay_factor: float = between(0.5, 0.0, 1.0)
    warmup: str = duration()
    # Not applied to biases and layer norms.
    weight_decay: float = at_least(0.05, 0.0)
    # Of an image encoder that is trained too (Show and Tell): its rate as a multiple of `lr`, and its own weight decay;
    # null = as the rest.
    encoder_rate: float = at_least(1.0, 0.0)
    encoder_decay: float | None = at_least(None, 0.0)
    beta1: float = between(0.9, 0.0, 0.999999)
    beta2: float = between(0.999, 0.0, 0.999999)
    eps: float = at_least(1e-8, 0.0)
    # Largest norm of the gradient; 0 = no clipping.
    clip_norm: float = at_least(1.0, 0.0)
    # Pictures in one step, over all processes and accumulation.
    batch_size: int = at_least(64, 1)
    # Pictures in one forward pass of one process; 0 = batch_size / processes.
    micro_batch_size: int = at_least(0, 0)
    # How long: an amount of steps (updates), epochs or examples, as in "800 steps". `warmup` and the periods of
    # `tracking` may also be in percent of it.
    duration: str = duration(percent=False)
    # "auto" takes bf16 where the hardware computes it fast, else fp32. "fp16" needs a GPU; its loss is scaled.
    precision: str = one_of("auto", "fp32", "bf16", "fp16")
    # Decay of an exponential moving average of the weights, which is then what is validated and kept as the model;
    # 0 = none.
    ema: float = between(0.0, 0.0, 0.999999)


@dataclass
class TrackingConfig:
    """What a run reports and keeps. metrics.jsonl is written always."""

    wandb: str = one_of("disabled", "offline", "online")
    # W&B project.
    project: str = "vivo"
    # From one log line, validation, checkpoint to the next: "20 steps", "1 epoch"; "" = at the end only.
    log_every: str = duration("20 steps")
    validate_every: str = duration()
    save_every: str = duration()
    # Newest checkpoints to keep.
    keep: int = at_least(2, 1)
    # Validate before the first update too: what the run begins with is then the first that can be the best.
    validate_start: bool = False
    # Metric of the validation by which the best model is kept in <out>/best, as in validation_CIDEr; "" = none.
    best: str = ""
    # End the run after so many validations in a row without a new best; 0 = never.
    stop_after: int = at_least(0, 0)


@dataclass
class EngineConfig:
    """How a run is carried out; none of it changes what is learned beyond rounding."""

    # "auto" goes on from the newest whole checkpoint in `out`; "never" begins at `init` and refuses a folder that
    # holds checkpoints; else the folder of a checkpoint of another run (rules: vivo/training/engine.py).
    resume: str = "auto"
    # Seconds after which a process that waits for another one gives up and the job ends.
    timeout: int = at_least(1800, 1)
    # Recompute each layer in the backward pass instead of keeping what it computed: less memory, a third more time.
    activation_checkpointing: bool = False
    # torch.compile the model (needs a C++ compiler on a CPU). VIVO on a GPU: layer by layer, 16-bit activations between
    # them under autocast, and cuDNN's attention (docs/benchmarks.md).
    compile: bool = False


@dataclass
class TrainConfig:
    """One training run, of pretrain/train.py or finetune/train.py."""

    # Weights, order of examples, masks and dropout all hang on it.
    seed: int = between(0, 0, 2**32 - 1)
    # Folder of the run: config.yaml, metrics.jsonl, checkpoints.
    out: str = "runs/debug"
    # Pre-training: "tags" = visual vocabulary from image-tag pairs (VIVO); "pairs" = masked caption tokens of
    # image-sentence pairs (as Oscar, without its contrastive loss); "both" = updates of the two kinds by turns (the
    # paper's Table 4). "captions" = caption fine-tuning. "scst" = CIDEr-D of sampled captions as the reward, after it.
    # "show_and_tell" = captions, by the CNN + LSTM captioner instead of VIVO's.
    objective: str = one_of("tags", "pairs", "both", "captions", "scst", "show_and_tell")
    # Where the weights start: a checkpoint folder of ours, "minilm" (the text weights that pip brings),
    # the folder of a BERT, or "random". Show and Tell: a model folder of its own, or "random".
    init: str = ""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    scst: ScstConfig = field(default_factory=ScstConfig)
    show_and_tell: RecurrentConfig = field(default_factory=RecurrentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)


@dataclass
class DecodeConfig:
    """How captions are searched; saved with the predictions."""

    # Width of the beam; 1 is greedy.
    beam: int = at_least(1, 1)
    # Longest caption, in word pieces.
    max_tokens: int = at_least(20, 1)
    # A caption's log-probability is divided by its length to this power before captions are compared.
    length_penalty: float = between(1.0, 0.0, 10.0)
    # No so many word pieces in a row twice in one caption; 0 allows it.
    no_repeat: int = at_least(0, 0)
    # Shortest caption, in word pieces.
    min_tokens: int = at_least(0, 0)
    # Diverse beam search: groups of beams that keep away from one another; 1 is plain beam search.
    groups: int = at_least(1, 1)
    # What a word piece loses for each beam of an earlier group that took it at the same step.
    diversity: float = at_least(0.0, 0.0)
    # Pictures decoded together.
    batch_size: int = at_least(32, 1)
    # When a search ends and what counts as finished: vivo's own conventions, or Oscar's, which captions of imported
    # checkpoints need to equal the published ones (docs/checkpoints.md; then max_tokens is max_gen_length - 1).
    conventions: str = one_of("vivo", "oscar")
    # Constrained beam search (docs/decoding.md): "detector" makes captions name what the regions' detector saw;
    # `beam` is then the width for each set of constraints that a caption satisfies.
    constraints: str = one_of("none", "detector")
    # RegionStore of another detector whose class names are the constraints; "" takes that of the model's regions.
    constraint_regions: str = ""
    # Classes of that detector: a classes.json (word forms, hierarchy), or Open Images' class descriptions (CSV) for
    # `constraint_hierarchy`. "": word forms by rule, no hierarchy.
    constraint_classes: str = ""
    # Open Images' hierarchy (JSON): of two boxes on one thing, the more general class is no constraint.
    constraint_hierarchy: str = ""
    # Regions below this score are no constraints.
    constraint_score: float = between(0.0, 0.0, 1.0)
    # Intersection over union from which two boxes are one thing.
    constraint_overlap: float = between(0.85, 0.0, 1.0)
    # Constraints of a picture, the surest; the work grows with 2 to this power.
    constraints_at_most: int = between(3, 1, 40)
    # Constraints that a caption must satisfy, or all where a picture has fewer.
    constraints_satisfied: int = at_least(2, 1)


@dataclass
class EvalConfig:
    """One evaluation: eval/predict.py writes captions, eval/score.py compares them with references."""

    # Checkpoint folder of the captioner.
    checkpoint: str = ""
    # RegionStore of the pictures to caption.
    regions: str = ""
    # Instead, of a captioner that sees pixels (Show and Tell): folder of the picture files that `references` name.
    pictures: str = ""
    # Further checkpoints of the same kind, with commas between: the mean of all probabilities is what is searched.
    ensemble: str = ""
    # Which pictures: a COCO or nocaps file, with or without captions. Beside nocaps_val_captions.json the image info
    # without captions is read, where it is there.
    references: str = ""
    # The tags that the model sees; nocaps pictures have no image-level labels that may be used. "self": written
    # by the pre-trained model that lies in the checkpoint's tagger/.
    tags: str = one_of("detector", "none", "file", "self")
    # For tags: file, lines {"image_id", "tags"} for all pictures.
    tag_file: str = ""
    # Folder for predictions.json and its header.
    out: str = "runs/eval"
    # Of the matrix products: fp32, bf16, fp16 (GPU only), or "auto": bf16 where the hardware computes it fast.
    precision: str = one_of("fp32", "auto", "bf16", "fp16")
    # Seconds after which a process that waits for the others gives up; it waits for the slowest at the end.
    timeout: int = at_least(3600, 1)
    # So many captions of each picture, the best, with the log-probability of each word piece:
    # predictions.n_best.jsonl beside predictions.json (docs/decoding.md). 0: no such file.
    n_best: int = at_least(0, 0)
    decode: DecodeConfig = field(default_factory=DecodeConfig)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """The training configuration in the YAML file `path`, its bases and the dotted `overrides`."""
    return load_layers(TrainConfig, path, overrides, validate)


def load_eval_config(path: str | Path, overrides: Sequence[str] = ()) -> EvalConfig:
    """The evaluation configuration in the YAML file `path`, its bases and the dotted `overrides`."""
    return load_layers(EvalConfig, path, overrides, validate)


def to_yaml(config: TrainConfig | EvalConfig) -> str:
    """All fields of `config` as YAML that `load_config` reads back."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def checked_decode(decode: DecodeConfig) -> DecodeConfig:
    """A search that a program asks for, its fields checked one by one and against each other as a file's are."""
    for key, problem in value_problems(decode, "decode."):
        raise UserError(f"{key}: {problem}")
    check_decoding(decode)
    return decode


def configs_dir() -> Path:
    """The folder of configurations that come with the project: the checkout's, or a wheel's copy of it."""
    package = Path(__file__).resolve().parent
    # vivo/configs is a link to the checkout's folder; setuptools puts the files behind it into wheels.
    # The second place is for copies of the tree that lost the link.
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "world.yaml").is_file():
            return folder.resolve()
    raise UserError("no configs/ beside or inside the vivo package: install vivo again, or run it from a checkout")


def validate(config: TrainConfig | EvalConfig) -> None:
    """Check the fields of `config` one by one and against each other; `UserError` names the key.

    `load_config` has done it; a program that changes a loaded configuration does it again.
    """
    for key, problem in value_problems(config):
        raise UserError(f"{key}: {problem}")
    if not config.out.strip():  # the working directory is where other files lie
        raise UserError("out: is needed: the folder to write")
    if isinstance(config, TrainConfig):
        check_training(config)
    else:
        check_evaluation(config)
