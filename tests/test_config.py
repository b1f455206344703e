"""Configurations: the layers and their order, every refusal in words, and no field that nobody reads."""

import ast
import dataclasses
import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from vivo.config import (
    DataConfig,
    EvalConfig,
    TrainConfig,
    configs_dir,
    load_config,
    load_eval_config,
    to_yaml,
    validate,
)
from vivo.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
MINIMAL = "init: minilm\ndata: {regions: r, examples: e}\noptim: {duration: 10 steps}\n"


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def minimal(tmp_path: Path) -> Path:
    return write(tmp_path, "run.yaml", MINIMAL)


def refusal(path: Path, *overrides: str) -> str:
    """The message with which `path` is refused: one line that names a source."""
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- layers ----------------------------------------------------------------------------------


def test_defaults_are_kept_where_no_layer_sets_a_field(minimal: Path) -> None:
    expected = TrainConfig(init="minilm", data=DataConfig(regions="r", examples="e"))
    expected.optim.duration = "10 steps"
    assert load_config(minimal) == expected


def test_file_wins_over_bases_and_overrides_over_all(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", MINIMAL + "seed: 1\nout: from_base\nmodel: {dropout: 0.3, layers: 4}\n")
    write(tmp_path, "sub/middle.yaml", "base: ../base.yaml\nseed: 2\nmodel: {dropout: 0.2}\n")
    path = write(tmp_path, "sub/run.yaml", "base: middle.yaml\nseed: 3\nmodel:\n")
    config = load_config(path, ["seed=4", "optim.lr=1e-4", "model.layers=null"])
    assert (config.seed, config.out, config.model.dropout, config.model.layers) == (4, "from_base", 0.2, None)
    assert config.optim.lr == 1e-4 and isinstance(config.optim.lr, float)
    assert load_config(path).model.layers == 4


@pytest.mark.parametrize("text", ["runs/a=b", "1:2", "", "yes", "012"])
def test_text_overrides_are_taken_as_they_stand(minimal: Path, text: str) -> None:
    # YAML would make 62, null, true and 10 of the last four.
    assert load_config(minimal, [f"data.vocabulary={text}"]).data.vocabulary == text


def test_values_are_typed(minimal: Path) -> None:
    config = load_config(minimal, ["loss.hungarian=false", "optim.eps=1e-6", "optim.clip_norm=2", "model.layers=3"])
    values = (config.loss.hungarian, config.optim.eps, config.optim.clip_norm, config.model.layers)
    assert values == (False, 1e-6, 2.0, 3)
    assert [type(value) for value in values] == [bool, float, float, int]


def test_yaml_round_trip(tmp_path: Path, minimal: Path) -> None:
    config = load_config(minimal, ["model.layers=2", "optim.lr=0.00031", "tracking.wandb=offline", "out=1:2"])
    assert load_config(write(tmp_path, "again.yaml", to_yaml(config))) == config


# ---- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("optim.weight_decey", "optim.weight_decay"),
        ("lr", "optim.lr"),
        ("data.at_most", "masking.at_most"),
        ("optimizer", "optim"),
        ("xyz", ""),  # some valid key, whichever
        ("seeds", "seed"),
    ],
)
def test_unknown_keys_name_source_key_and_nearest(minimal: Path, key: str, nearest: str) -> None:
    words = f"command line: unknown key {key}; the nearest valid key is "
    message = refusal(minimal, f"{key}=1")
    assert message == words + nearest if nearest else message.startswith(words)


def test_unknown_key_in_a_base_names_the_base(tmp_path: Path) -> None:
    base = write(tmp_path, "base.yaml", MINIMAL + "masking: {at_mots: 1}\n")
    run = write(tmp_path, "run.yaml", "base: base.yaml\n")
    assert refusal(run) == f"{base}: unknown key masking.at_mots; the nearest valid key is masking.at_most"


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("seed: 1.5", "seed"),
        ("seed: true", "seed"),
        ("seed: null", "seed"),
        ("seed: [1, 2]", "seed"),
        ("out: 5", "out"),
        ("loss: {hungarian: 3}", "loss.hungarian"),
        ("loss: {hungarian: maybe}", "loss.hungarian"),
        ("model: {layers: two}", "model.layers"),
        ("model: {dropout: some}", "model.dropout"),
        ("model: 3", "model"),
        ("seed: {value: 3}", "seed"),
        ("out: ${nowhere}", "out"),
        ("out: ???", "out"),
    ],
)
def test_wrong_types_name_file_and_key(tmp_path: Path, line: str, key: str) -> None:
    base = write(tmp_path, "base.yaml", MINIMAL)
    path = write(tmp_path, "run.yaml", f"base: {base.name}\n{line}\n")
    assert refusal(path).startswith(f"{path}: {key}: ")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "objective=caption",
            "objective: 'caption' is none of tags, pairs, both, captions, scst, show_and_tell; the nearest is captions",
        ),
        (
            "optim.schedule=cos",
            "optim.schedule: 'cos' is none of linear, cosine, constant, stairs; the nearest is cosine",
        ),
        ("model.dropout=1.5", "model.dropout: must be from 0 to 1, not 1.5"),
        ("optim.lr=-1", "optim.lr: must be 0 or more, not -1.0"),
        ("optim.lr=.nan", "optim.lr: must be 0 or more, not nan"),
        ("model.layers=0", "model.layers: must be 1 or more, not 0"),
        (
            "optim.duration=10",
            "optim.duration: '10' is no duration; write an amount and one of steps, epochs, examples, percent, "
            "as in '800 steps'",
        ),
        ("optim.duration=5 percent", "optim.duration: cannot be in percent: it is the whole"),
        ("optim.warmup=101 percent", "optim.warmup: '101 percent' is more than the whole"),
        ("tracking.save_every=1.5 steps", "tracking.save_every: '1.5 steps': there are no parts of a step"),
        ("optim.duration=1e400 steps", "optim.duration: '1e400 steps' is longer than any run; 1e+15 is the most"),
        ("optim.duration=1e309 epochs", "optim.duration: '1e309 epochs' is longer than any run; 1e+15 is the most"),
        ("optim.beta1=1.0", "optim.beta1: must be from 0 to 0.999999, not 1.0"),
        ("optim.beta2=1.0", "optim.beta2: must be from 0 to 0.999999, not 1.0"),
        ("seed=5000000000", "seed: must be from 0 to 4294967295, not 5000000000"),
        ("seed", "'seed' is not an override; write key=value, as in optim.lr=1e-4"),
        ("--seed=1", "'--seed=1' is not an override; write key=value, as in optim.lr=1e-4"),
    ],
)
def test_values_out_of_range_name_the_command_line(minimal: Path, override: str, words: str) -> None:
    assert refusal(minimal, override) == f"command line: {words}"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["init="], "init: is needed"),
        (["out="], "out: is needed: the folder to write"),
        (["data.regions="], "data.regions: is needed"),
        (["optim.duration=0 steps"], 'optim.duration: is needed, as in "800 steps", "3 epochs" or "1e6 examples"'),
        (["optim.lr=0"], "optim.lr: must be above 0"),
        (["optim.warmup=11 steps"], "optim.warmup: 11 steps is more than optim.duration, 10 steps"),
        (["optim.micro_batch_size=7"], "optim.micro_batch_size: 7 does not divide optim.batch_size, 64"),
        (["model.heads=5"], "model.heads: 5 does not divide model.hidden_size, 384"),
        (["masking.share_max=0.1"], "masking.share_min: 0.15 is more than masking.share_max, 0.1"),
        (["data.tags=none"], 'data.tags: objective "tags" learns tags'),
        (["data.tag_dropout=0.1"], "data.tag_dropout: leaves out hints in pre-training"),
        (["data.named_tags_only=true"], "data.named_tags_only: is beside captions only"),
        (["objective=captions", "data.hints=detector"], 'data.hints: is for objectives "tags" and "both"'),
        (["objective=pairs"], "data.pairs: is needed with objective pairs"),
        (["objective=both"], "data.pairs: is needed with objective both"),
        (["objective=both", "data.pairs=p", "data.examples="], "data.examples: is needed with objective both"),
        (["objective=pairs", "data.pairs=p", "data.regions="], "data.regions: is needed with objective pairs"),
        (["objective=both", "data.pairs=p", "data.pairs_share=1"], "data.pairs_share: 1.0 leaves one kind out"),
        (["objective=both", "data.pairs=p", "data.pairs_tags=file"], "data.tag_file: is needed with data.pairs_tags"),
        (["objective=both", "data.pairs=p", "data.tags=none"], 'data.tags: objective "both" learns tags'),
        (["data.hints=file"], "data.tag_file: is needed"),
        (["tracking.validate_every=5 steps"], "tracking.validate_every: needs data.validation_share"),
    ],
)
def test_fields_are_checked_against_each_other(minimal: Path, overrides: list[str], words: str) -> None:
    assert refusal(minimal, *overrides).startswith(f"{minimal} with overrides: {words}")


def test_validate_checks_a_changed_configuration(minimal: Path) -> None:
    config = load_config(minimal)
    config.optim.beta1 = math.nan
    with pytest.raises(UserError, match=r"^optim\.beta1: must be from 0 to 0\.999999, not nan$"):
        validate(config)


def test_cyclic_bases_are_refused(tmp_path: Path) -> None:
    first = write(tmp_path, "first.yaml", "base: second.yaml\n")
    second = write(tmp_path, "second.yaml", "base: third.yaml\n")
    third = write(tmp_path, "third.yaml", "base: second.yaml\n")
    assert refusal(first).startswith(f"{third}: base: comes back to {second}")


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    missing = tmp_path / "missing.yaml"
    assert refusal(missing) == f"{missing}: no such configuration file"
    orphan = write(tmp_path, "orphan.yaml", "base: missing.yaml\n")
    assert refusal(orphan) == f"{orphan}: base: there is no file {missing}"
    for name, text in (("twice", "seed: 1\nseed: 2\n"), ("broken", "seed: [1\n"), ("list", "- 1\n"), ("word", "x\n")):
        path = write(tmp_path, f"{name}.yaml", text)
        assert refusal(path).startswith(f"{path}: ")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00seed")
    assert refusal(binary).startswith(f"{binary}: cannot be read")


def test_evaluation_configurations(tmp_path: Path) -> None:
    path = write(tmp_path, "eval.yaml", "checkpoint: c\nregions: r\nreferences: n\ndecode: {beam: 5}\n")
    config = load_eval_config(path, ["tags=none"])
    assert (config.decode.beam, config.tags, config.decode.max_tokens) == (5, "none", 20)
    with pytest.raises(UserError, match="references: is needed"):
        load_eval_config(path, ["references="])
    # Image-level labels of test pictures are answers, not inputs.
    with pytest.raises(UserError, match="tags: 'labels' is none of detector, none"):
        load_eval_config(path, ["tags=labels"])
    assert load_eval_config(path, ["n_best=5"]).n_best == 5
    with pytest.raises(UserError, match="n_best: 6 captions, but the search finds 5 of a picture; give decode.beam"):
        load_eval_config(path, ["n_best=6"])
    with pytest.raises(UserError, match="n_best: 2 captions, but the search finds 1 of a picture; Oscar's search"):
        load_eval_config(path, ["n_best=2", "decode.conventions=oscar"])


# ---- the files and the fields of the project -------------------------------------------------


def test_every_configuration_file_loads() -> None:
    launchers = {configs_dir() / name for name in ("accelerate", "slurm", "sweeps")}  # for other programs
    files = sorted(path for path in configs_dir().rglob("*.yaml") if path.parent not in launchers)
    assert {path.name for path in files} >= {"world.yaml", "forkme.yaml", "table6_one_mask.yaml", "mask_15.yaml"}
    for path in files:
        config = load_eval_config(path) if path.parent.name == "eval" else load_config(path)
        assert not Path(config.out).is_absolute()


def story_of(path: Path) -> dict[str, str]:
    """What a file's header says: "#   key       text", with lines that go on under the text."""
    found: dict[str, str] = {}
    key = ""
    for line in path.read_text().splitlines():
        if begun := re.match(r"#   ([a-z]+) +(\S.*)", line):
            key = begun[1]
            found[key] = begun[2]
        elif key and (more := re.match(r"# {13}(\S.*)", line)):
            found[key] += f" {more[1]}"
        else:
            key = ""
    return found


STORIES = sorted(p for p in configs_dir().rglob("*.yaml") if p.parent.name != "accelerate")
UNKNOWN = "not measured|not run|not said|no figure|until then"


@pytest.mark.parametrize("path", STORIES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_each_file_carries_its_story(path: Path) -> None:
    """Command, hardware, hours, what is expected and what was reached: figures, or that there is none."""
    story = story_of(path)
    asked = ["command", "needs", "hardware", "hours", "expected", "reached"]
    asked += [] if path.parent.name == "sweeps" else ["paper"]
    assert [word for word in asked if not story.get(word)] == []
    if path.name == "forkme.yaml":  # says what is to be filled in
        return
    # a figure is not the number in a file's or table's name
    said = {word: re.sub(r"\S+\.(md|yaml|py)|Tables? \d\S*", "", story[word]) for word in asked}
    for word in ("hours", "expected", "reached"):
        assert re.search(rf"\d|as |part of|{UNKNOWN}" if word == "hours" else rf"\d|{UNKNOWN}", said[word]), story[word]
    if not re.search(UNKNOWN, said["reached"]):
        assert re.search(r"commit [0-9a-f]{7}\b", story["reached"]), f"reached by which commit? {story['reached']}"


PAIRS = {"objective", "data.pairs", "data.pairs_regions", "data.tag_dropout", "data.captions_per_picture",
         "optim.duration"}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("table4_none", {"init"}),
        ("table4_pairs", PAIRS),
        ("table4_pairs_and_tags", PAIRS | {"data.pairs_share"}),
        ("table5_none", {"init"}),
        ("table5_boxed", {"data.vocabulary"}),
        ("table5_all", set()),
        ("table6_one_mask", {"masking.at_most"}),
        ("table6_no_hungarian", {"loss.hungarian"}),
        ("table6_hungarian", set()),
        ("mask_15", {"masking.share_max"}),
    ],
)
def test_ablations_differ_from_their_base_in_what_they_are_about(name: str, fields: set[str]) -> None:
    """Without pre-training that is the configuration of fine-tuning."""
    base = configs_dir() / ("finetune/world.yaml" if name.endswith("none") else "world.yaml")
    found = dataclasses.asdict(load_config(configs_dir() / "ablations" / f"{name}.yaml"))
    changed = dict(leaves(found) - leaves(dataclasses.asdict(load_config(base))))
    assert Path(changed.pop("out")).parent == Path("runs/ablations") / name and changed.keys() == fields


def test_every_ablation_is_checked() -> None:
    marks = test_ablations_differ_from_their_base_in_what_they_are_about.pytestmark
    checked = {name for name, _ in marks[0].args[1]}
    assert {path.stem for path in (configs_dir() / "ablations").glob("*.yaml")} == checked


def leaves(tree: dict, prefix: str = "") -> set[tuple[str, object]]:
    """(dotted key, value) of all values."""
    found: set[tuple[str, object]] = set()
    for name, value in tree.items():
        found |= leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {(prefix + name, value)}
    return found


# Names under which code holds a group of the configuration, besides the group's own.
ALIASES = {"model": {"shape"}, "tracking": {"_wandb_config"}}


def declared_fields(schema: type, group: str = "config") -> Iterator[tuple[str, str]]:
    """(group, name) of every field that holds a value; "config" is the group of those at the top."""
    for item in dataclasses.fields(schema):
        if dataclasses.is_dataclass(item.type):
            yield from declared_fields(item.type, item.name)
        else:
            yield group, item.name


def attributes_read() -> set[tuple[str, str]]:
    """(owner, name) of every `owner.name` and `anything.owner.name` that the project's code reads."""
    found = set()
    files = [path for folder in ("vivo", "pretrain", "finetune", "eval") for path in (ROOT / folder).rglob("*.py")]
    for path in files:
        if path.name in ("config.py", "config_layers.py"):  # checking a field is not using it
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                owner = getattr(node.value, "attr", None) or getattr(node.value, "id", "")
                found.add((owner, node.attr))
    return found


def test_every_field_is_read() -> None:
    """An option that no code reads is a lie to whoever sets it.

    A field counts as read where its name follows its group's: `config.optim.lr`, `optim.lr`. Code that
    holds a group under another name adds that name to ALIASES.
    """
    read = attributes_read()
    fields = [*declared_fields(TrainConfig), *declared_fields(EvalConfig)]
    assert len(fields) > 50
    dead = [
        f"{group}.{name}"
        for group, name in fields
        if not any((owner, name) in read for owner in {group} | ALIASES.get(group, set()))
    ]
    assert not dead, f"read by nobody: {', '.join(dead)}"


PUBLISHED = {  # VinVL_MODEL_ZOO.md and the defaults of run_captioning.py (Oscar, 266075f)
    "coco_xe": (3e-5, 512, "300 epochs", 0.1, 0.2, None),  # 60 of pairs, five a picture
    "coco_scst": (3e-6, 128, "75 epochs", 0.0, 0.0, (5, "greedy", 19)),
    "nocaps_xe": (1e-4, 256, "150 epochs", 0.0, 0.0, None),  # 30 of pairs
    "nocaps_scst": (5e-6, 112, "50 epochs", 0.0, 0.0, (5, "greedy", 19)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_recipes_have_the_published_numbers(name: str) -> None:
    config = load_config(configs_dir() / "finetune" / f"{name}.yaml")
    scst = config.scst
    found = (
        config.optim.lr,
        config.optim.batch_size,
        config.optim.duration,
        config.loss.label_smoothing,
        config.loss.drop_worst,
        (scst.samples, scst.baseline, scst.max_tokens) if config.objective == "scst" else None,
    )
    assert found == PUBLISHED[name]
