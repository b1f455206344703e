"""docs/reproduce.md: every command is taken out of the page and run, dry, on small files of the official formats.

The programs are called in this process, with their own arguments: twenty starts of Python would be most of the time.
What stands before them (`accelerate launch --config_file F`) is read by accelerate itself. Files with official names
hold as many pictures and captions as the official ones, for the programs count them; pictures and labels are those
of the embedded world.
"""

import csv
import importlib.util
import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.state import AcceleratorState
from tiny_split import make_captioner, make_info, make_store

from vivo.cli import main as vivo
from vivo.config import load_config, load_eval_config
from vivo.data.nocaps import PICTURES, VAL_DOMAINS
from vivo.data.region_format import sha256_of
from vivo.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "reproduce.md").read_text()
DETECTORS = {"FEATURES": "grid:scales=96x2,device=cpu", "OBJECTS": "embedded"}
SMALL = ["model.layers=1", "model.hidden_size=48", "model.heads=4", "model.intermediate_size=96"]


def commands() -> list[str]:
    """Of all blocks, lines that a backslash joins as one."""
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.strip() and not line.startswith("#")]


EXPORTS = [line for line in commands() if line.startswith("export ")]
RUNS = [line for line in commands() if not line.startswith("export ")]


# ---- stand-ins ------------------------------------------------------------------------------


def official_captions(path: Path, texts: list[str]) -> None:
    """captions_train2017.json: 118,287 pictures with 591,753 captions."""
    images = ",".join(f'{{"id":{n},"file_name":"{n:012d}.jpg"}}' for n in range(1, 118_288))
    quoted = [json.dumps(text) for text in texts]
    rows = ",".join(
        f'{{"id":{n},"image_id":{n % 118_287 + 1},"caption":{quoted[n % len(quoted)]}}}' for n in range(591_753)
    )
    path.write_text(f'{{"images":[{images}],"annotations":[{rows}]}}')


def official_validation(path: Path, texts: list[str]) -> None:
    """nocaps_val_4500_captions.json: ten captions a picture, the domains of the public file."""
    domains = [domain for domain, count in VAL_DOMAINS.items() for _ in range(count)]
    images = [{"id": n, "file_name": f"{n:016x}.jpg", "domain": domain} for n, domain in enumerate(domains)]
    annotations = [
        {"id": 10 * n + k, "image_id": n, "caption": texts[(n + 7 * k) % len(texts)]}
        for n in range(len(images))
        for k in range(10)
    ]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))


def challenge_boxes(world: Path, path: Path) -> None:
    """The challenge's file of boxes has fewer columns."""
    names = ["ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax", "IsGroupOf"]
    with world.open(newline="") as source, path.open("w", newline="") as target:
        writer = csv.DictWriter(target, names, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(csv.DictReader(source))


@pytest.fixture(scope="module")
def checkout(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with configs/, and data/ and runs/ as the page has them when each command is due."""
    folder = tmp_path_factory.mktemp("reproduce")
    (folder / "configs").symlink_to(ROOT / "configs")
    world, stores = tiny_world / "world", tiny_world / "regions"
    images, coco, nocaps = (folder / "data" / name for name in ("open_images", "coco", "nocaps"))
    for place in (images, coco, nocaps):
        place.mkdir(parents=True)
    (images / "train").symlink_to(world / "open_images" / "images")
    (images / "objects").symlink_to(stores / "open_images")
    for name in ("train-annotations-human-imagelabels.csv", "class-descriptions.csv"):
        shutil.copy(world / "open_images" / name, images)
    shutil.copy(world / "open_images" / "class-descriptions.csv", images / "class-descriptions-boxable.csv")
    shutil.copy(world / "open_images" / "bbox_labels_hierarchy.json", images / "bbox_labels_600_hierarchy.json")
    challenge_boxes(
        world / "open_images" / "train-annotations-bbox.csv", images / "challenge-2019-train-detection-bbox.csv"
    )

    told = json.loads((world / "coco" / "captions_train.json").read_text())
    texts = sorted({annotation["caption"] for annotation in told["annotations"]})
    (coco / "train2017").symlink_to(world / "coco" / "images")
    (coco / "objects").symlink_to(stores / "coco")
    official_captions(coco / "captions_train2017.json", texts)

    picture = next((world / "nocaps" / "images").glob("*.jpg"))
    for split, count in PICTURES.items():
        ids = [str(n if split == "val" else PICTURES["val"] + n) for n in range(count)]
        make_info(nocaps / f"nocaps_{split}_image_info.json", ids)
        (nocaps / split).mkdir()
        for i in ids:
            (nocaps / split / f"{int(i):016x}.jpg").symlink_to(picture)
        make_store(nocaps / f"regions_{split}", ids)
        (nocaps / f"objects_{split}").symlink_to(nocaps / f"regions_{split}")
    official_validation(nocaps / "nocaps_val_4500_captions.json", texts)

    run = folder / "runs" / "vivo_base" / "scst"
    make_captioner(run / "model", nocaps / "regions_val")
    (run / "config.yaml").write_text(
        yaml.safe_dump({"objective": "scst", "init": "minilm", "data": {"examples": "data/coco/captions.jsonl"}})
    )
    (run / "inputs.json").write_text("{}")
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    for split, count in PICTURES.items():
        out = folder / "runs" / "vivo_base" / split
        out.mkdir()
        first = 0 if split == "val" else PICTURES["val"]
        records = [{"image_id": str(first + n), "caption": texts[n % len(texts)]} for n in range(count)]
        (out / "predictions.json").write_text(json.dumps(records))
        header = {"weights_sha256": sha256_of(run / "model" / "model.safetensors"), "decode": {}, "tags": "file"}
        (out / "predictions.header.json").write_text(json.dumps(header))
    return folder


@pytest.fixture(autouse=True)
def any_precision() -> Iterator[None]:
    """Accelerate keeps the first precision that a process asks for."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


# ---- the page -------------------------------------------------------------------------------


def program(path: str) -> Callable[[list[str]], int]:
    """`main` of a program, or the `vivo` command."""
    if path == "vivo":
        return vivo
    name = f"page_{Path(path).parent.name}_{Path(path).stem}"
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def parsed(command: str) -> tuple[list[str], str, list[str]]:
    """(arguments of `accelerate launch`, program, its arguments), with the detectors put in."""
    for name, specification in DETECTORS.items():
        command = command.replace(f'"${name}"', specification)
    assert "$" not in command
    words = shlex.split(command)
    if words[0] == "vivo":
        return [], "vivo", words[1:]
    place = next(n for n, word in enumerate(words) if word.endswith(".py"))
    launch = words[:place]
    assert launch[:2] == ["accelerate", "launch"] or launch == ["python"], command
    return launch[2:], words[place], words[place + 1 :]


def files_of(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if not path.is_symlink() and "configs" not in path.parts
    }


def test_the_page_has_every_stage_in_its_order():
    programs = [parsed(command)[1] for command in RUNS]
    order = [name for n, name in enumerate(programs) if n == 0 or programs[n - 1] != name]
    assert order == [
        "pretrain/extract_regions.py", "pretrain/prepare_open_images.py", "finetune/prepare_coco.py", "vivo",
        "pretrain/train.py", "finetune/train.py", "finetune/train_scst.py", "eval/predict.py", "eval/score.py",
        "eval/nocaps_submit.py", "eval/predict.py", "eval/nocaps_submit.py",
    ]  # fmt: skip
    assert [line.split()[1].split("=")[0] for line in EXPORTS] == list(DETECTORS)


def test_what_a_command_reads_is_what_an_earlier_one_writes():
    """Paths of the configurations and of the commands fit together; nothing else is read than the official files."""
    listed = set(re.findall(r"`([\w./-]+)`", PAGE.split("## Official files")[1].split("## Commands")[0]))
    official = {"train", "val", "test", "train2017", "bert-base-uncased"} | {Path(name).name for name in listed}
    made: set[str] = set()

    def read(path: str) -> None:
        assert not path or path in made or Path(path).name in official, path

    for command in RUNS:
        _, name, arguments = parsed(command)
        paths = [word for word in arguments if word.startswith(("data/", "runs/"))]
        if name in ("pretrain/train.py", "finetune/train.py", "finetune/train_scst.py"):
            config = load_config(ROOT / arguments[0])
            frequencies = config.scst.frequencies if config.objective == "scst" else ""
            for path in (config.init, config.data.regions, config.data.examples, config.data.tag_file, frequencies):
                read(path)
            made |= {config.out, f"{config.out}/model"}
        elif name == "eval/predict.py":
            config = load_eval_config(ROOT / arguments[0])
            decode = config.decode
            of_search = (decode.constraint_regions, decode.constraint_classes, decode.constraint_hierarchy)
            for path in (config.checkpoint, config.regions, config.references, config.tag_file, *of_search):
                read(path)
            made.add(f"{config.out}/predictions.json")
        else:
            written = {
                "pretrain/extract_regions.py": paths[1:2],
                "pretrain/prepare_open_images.py": [path for path in paths if path.endswith(".parquet")],
                "finetune/prepare_coco.py": paths[1:],
            }.get(name, [arguments[arguments.index("--out") + 1]] if "--out" in arguments else [])
            for path in paths:
                if path not in written:
                    read(path)
            made |= set(written)


@pytest.mark.slow
@pytest.mark.parametrize("command", RUNS, ids=lambda command: "-".join(re.findall(r"[\w./-]+", command)[-4:])[-60:])
def test_each_command_runs_dry(command: str, checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(checkout)
    launch, name, arguments = parsed(command)
    if launch:
        read = launch_command_parser().parse_args([*launch, name, *arguments])
        resolved, *_ = _validate_launch_command(read)
        assert resolved.num_processes == 8 and resolved.training_script == name
    if name.endswith(("train.py", "train_scst.py")):
        config = load_config(arguments[0])
        assert (config.optim.batch_size / 8).is_integer()
        arguments += [*SMALL, "optim.precision=fp32", "--gpus", str(config.optim.batch_size // 4)]
    before = files_of(checkout)
    whole = name == "vivo" or name == "eval/score.py"  # have no dry run and need none
    if not whole:
        arguments.append("--dry-run")
    assert program(name)(arguments) == 0, capsys.readouterr().err[-3000:]
    said = capsys.readouterr().out
    if whole:
        out = Path(arguments[arguments.index("--out") + 1])
        assert out.is_file() and str(out) in said
    else:
        assert files_of(checkout) == before and "dry run" in said, said
        assert ("one process of" if "train" in Path(name).name else "not" if "eval" in name else "dry run") in said


def test_a_detector_that_is_not_installed_is_one_line(checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """The page's own detectors, where detectron2 or their files are missing."""
    monkeypatch.chdir(checkout)
    (value,) = re.findall(r'FEATURES="([^"]*)"', EXPORTS[0])
    arguments = ["data/open_images/train", "data/open_images/regions", "--detector", value, "--dry-run"]
    assert program("pretrain/extract_regions.py")(arguments) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("error: ") and not (checkout / "data/open_images/regions").exists()


def test_dry_runs_say_what_is_wrong(checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys):
    monkeypatch.chdir(checkout)
    one = {"images": [{"id": 1}], "annotations": [{"id": 1, "image_id": 1, "caption": "a dog"}]}
    (tmp_path / "captions_train2017.json").write_text(json.dumps(one))
    out = tmp_path / "new" / "captions.jsonl"
    cases = {
        "expected 118,287 pictures, found 1": (
            "finetune/prepare_coco.py", [str(tmp_path / "captions_train2017.json"), str(out)],
        ),
        "no pictures in it": ("pretrain/extract_regions.py", [str(tmp_path), str(tmp_path / "store")]),
        "unknown class id": (
            "pretrain/prepare_open_images.py",
            ["data/open_images/train-annotations-human-imagelabels.csv", str(tmp_path / "few.csv"), str(out)],
        ),
    }  # fmt: skip
    (tmp_path / "few.csv").write_text("/m/0,Nothing\n")
    for words, (name, arguments) in cases.items():
        assert program(name)([*arguments, "--dry-run"]) == 2
        assert words in capsys.readouterr().err
    assert not out.parent.exists() and not (tmp_path / "store").exists()


def test_tags_of_a_store_that_names_nothing_are_refused(tmp_path: Path):
    from vivo.data.region_tools import write_detector_tags

    store = make_store(tmp_path / "store", ["1", "2"], names=("",))
    with pytest.raises(UserError, match="its detector, random, names nothing"):
        write_detector_tags(store, tmp_path / "tags.jsonl", progress=False)
    assert not (tmp_path / "tags.jsonl").exists()
