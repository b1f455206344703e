"""README.md of a saved model: what it is, what it was made from and by, what it scores. Read by people and model hubs.

Filled from what the run left (config.yaml, environment.json, inputs.json, metrics.jsonl). Paths are told by their last
part alone: where a file lay is nobody's business, its hash says which it was.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import yaml

from vivo.errors import UserError
from vivo.model_config import VivoConfig
from vivo.show_and_tell.model_config import ShowAndTellConfig

FILE = "README.md"
NOT_YET = "This model has not learned to caption yet"
_STAGES = {
    "": f"{NOT_YET}: it has not been trained at all.",
    "tags": f"{NOT_YET}: it was pre-trained on pictures and their tags, and knows a visual vocabulary. Fine-tune it "
    "with `finetune/train.py`.",
    "pairs": f"{NOT_YET}: it was pre-trained on pictures with sentences. Fine-tune it with `finetune/train.py`.",
    "both": f"{NOT_YET}: it was pre-trained on pictures with tags and pictures with sentences. Fine-tune it with "
    "`finetune/train.py`.",
    "captions": "It writes a caption for a picture.",
}
Config = VivoConfig | ShowAndTellConfig


@dataclass
class CardFacts:
    """What a card tells beyond the model's own configuration; all of it may be empty.

    Attributes:
        origin: one sentence, where the weights come from. seed, commit: of the run.
        inputs: name -> what is known of a file or store ("sha256", "fingerprint", ...), see training/inputs.py.
        scores: name -> number, of the last validation or of an evaluation. scored_on: on which pictures.
        settings: the resolved configuration.
        license: an SPDX id in lower case; "other" where nobody has said. language: of the captions, ISO 639-1.
    """

    origin: str = ""
    seed: int | None = None
    commit: str = ""
    inputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    scored_on: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    license: str = "other"
    language: str = "en"


def facts_of_run(run: Path) -> CardFacts:
    """What a training's folder says about the model that it ends with."""
    settings = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    from vivo.training.tracking import read_records  # here: only trainings need it

    records = read_records(run / "metrics.jsonl")
    validations = [record for record in records if any(key.startswith("validation_") for key in record)]
    last = validations[-1] if validations else {}
    scores = {
        name.removeprefix("validation_"): float(value)
        for name, value in last.items()
        if name.startswith("validation_") and isinstance(value, int | float)
    }
    return CardFacts(
        origin=f"Trained by vivo with the objective {settings['objective']} from {_shown(settings['init'])}.",
        seed=settings["seed"],
        commit=json.loads((run / "environment.json").read_text(encoding="utf-8"))["commit"],
        inputs=json.loads((run / "inputs.json").read_text(encoding="utf-8")),
        scores=scores,
        scored_on=f"validation after {last['step']} updates" if scores else "",
        settings=settings,
    )


def model_card(config: Config, facts: CardFacts) -> str:
    """The whole text, front matter first."""
    can_caption = config.training_stage == "captions"
    front = {
        "license": facts.license,
        "language": facts.language,
        "library_name": "vivo",
        "pipeline_tag": "image-to-text",
        "tags": ["vivo", "image-captioning" if can_caption else "visual-vocabulary"],
    }
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# {config.model_type} model",
        _STAGES.get(config.training_stage, f"Training stage: {config.training_stage}."),
        f"{facts.origin} {_shape(config)}.".strip(),
        _sees(config),
        "## Use",
        f"```python\n{_use(config)}```",
        "## Made from",
        _table(_rows(config, facts)),
    ]  # fmt: skip
    if facts.scores:
        parts += [
            f"## Scores ({facts.scored_on})",
            _table([(name, f"{value:.4g}") for name, value in facts.scores.items()]),
        ]
    if facts.license == "other":
        parts += [
            "## License",
            "Nobody has said under which license these weights may be used; it depends on the pictures, texts and"
            " weights that they were made from. The code of vivo is under the MIT license.",
        ]
    if facts.settings:
        parts += ["## Configuration", f"```yaml\n{yaml.safe_dump(_without_places(facts.settings), sort_keys=False)}```"]
    return "\n\n".join(parts) + "\n"


def write_card(folder: Path, config: Config, facts: CardFacts) -> None:
    """FOLDER/README.md."""
    (folder / FILE).write_text(model_card(config, facts), encoding="utf-8")


def relicensed(card: str, license: str, language: str) -> str:
    """A card with other metadata in its front matter, and without the section that says that nobody knows."""
    front, _, rest = card.removeprefix("---\n").partition("---\n")
    told = yaml.safe_load(front)
    if not isinstance(told, dict):
        raise UserError(f"{FILE}: has no front matter; remove it, and a new one is written")
    told |= {"license": license, "language": language}
    if license != "other":
        rest = re.sub(r"\n## License\n\n.*?\n(?=\n|\Z)", "", rest, flags=re.S)
    return f"---\n{yaml.safe_dump(told, sort_keys=False)}---\n{rest}"


def _shape(config: Config) -> str:
    """What the model is made of."""
    if isinstance(config, ShowAndTellConfig):
        return (
            f"Show and Tell: {config.encoder}, LSTM of {config.lstm_size} units, {config.vocab_size:,} "
            f"{'words' if config.words else 'word pieces'}, up to {config.max_caption_tokens} caption tokens"
        )
    return (
        f"{config.num_hidden_layers} layers, width {config.hidden_size}, {config.num_attention_heads} heads, "
        f"{config.vocab_size:,} word pieces; up to {config.max_regions} regions of {config.feature_size} features, "
        f"{config.max_tag_tokens} tag tokens and {config.max_caption_tokens} caption tokens"
    )


def _sees(config: Config) -> str:
    """What it takes of a picture: a paragraph."""
    known = config.region_fingerprint
    if isinstance(config, ShowAndTellConfig):
        trained = (
            f"which is as it came; its outputs: fingerprint `{known}`" if known else "which was trained with the rest"
        )
        return f"Pictures: squares of {config.picture_size} pixels, seen by the encoder, {trained}."
    if known:
        return f"Region features: detector fingerprint `{known}`."
    return "Region features: of a detector that nothing names; no store of features can be checked against it."


def _use(config: Config) -> str:
    if config.training_stage == "captions":
        place = "this folder" if isinstance(config, ShowAndTellConfig) else "this folder, with its detector/"
        return (
            "from vivo.captioner import Captioner\n\n"
            f'captioner = Captioner.from_pretrained("DIR")  # {place}\n'
            'for caption in captioner("photo.jpg"):\n'
            "    print(caption.text, caption.score)\n\n"
            "# without DIR/detector, from a store of its features:\n"
            "# python eval/predict.py configs/eval/world.yaml checkpoint=DIR regions=STORE references=CAPTIONS.json\n"
        )
    return (
        "import vivo  # lets transformers know this kind of model; no remote code\n"
        "from transformers import AutoModelForPreTraining\n\n"
        'model = AutoModelForPreTraining.from_pretrained("DIR")\n'
    )


def _rows(config: Config, facts: CardFacts) -> list[tuple[str, str]]:
    rows = [("training stage", config.training_stage or "(none)")]
    if facts.seed is not None:
        rows.append(("seed", str(facts.seed)))
    if facts.commit:
        rows.append(("commit of vivo", f"`{facts.commit}`"))
    for name, told in facts.inputs.items():
        known = [f"{key} `{_shown(value)}`" for key, value in told.items()]
        rows.append((name, ", ".join(known)))
    return rows


def _table(rows: list[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _without_places(value: Any) -> Any:
    """The same settings with the last part of each path."""
    if isinstance(value, Mapping):
        return {key: _without_places(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_places(item) for item in value]
    return _shown(value) if isinstance(value, str) else value


def _shown(value: Any) -> str:
    text = str(value)
    return PurePath(text).name if os.sep in text else text
