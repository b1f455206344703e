"""`vivo novel`: VIVO against no pre-training on a novel-object benchmark of photographs.

finetune/prepare_novel_split.py makes DIR, pretrain/extract_regions.py DIR/regions/{training,evaluation},
pretrain/train_tagger.py DIR/tagger; then everything that learns, captions and scores happens here.
"""

from collections.abc import Sequence
from pathlib import Path

from vivo.config import configs_dir
from vivo.data.novel_files import check_novel_benchmark
from vivo.errors import UserError
from vivo.experiment.benchmark import Benchmark, Goals
from vivo.experiment.photograph_checks import check_photographs, check_pictures
from vivo.experiment.plan import photograph_plan
from vivo.experiment.run import run_comparison
from vivo.experiment.stages import Clock, console

GOALS = Goals(f1=0.15, cider=None, other_picture=1 / 3)


def run_novel(
    folder: Path,
    out: Path,
    pictures: Path,
    config: str,
    seeds: int,
    tags: str,
    overrides: Sequence[str] = (),
    jobs: int = 1,
) -> None:
    """The comparison on the benchmark in `folder`, into `out`.

    Args:
        pictures: folder of the photographs, for the page.
        config: name of a configuration in configs/, with namesakes in finetune/ and eval/.
        tags: "file" the tagger's, "self" the pre-trained model's own, or "none".
        overrides: of both training configurations.
        jobs: trainings at a time.
    """
    bench = photograph_benchmark(folder, pictures, config, tags, tuple(overrides))
    check_novel_benchmark(folder)
    check_photographs(bench, folder)
    check_pictures(bench)
    clock = Clock(out / "seconds.json")
    extra = {"benchmark": folder.name, "tags": tags, "jobs": str(jobs)}
    try:
        run_comparison(out, bench, photograph_plan(), seeds, clock, extra, jobs)
    finally:
        clock.lap()
    console.print(f"results {out / 'results.json'}, page {out / 'report.html'}")


def photograph_benchmark(
    folder: Path, pictures: Path, config: str, tags: str, overrides: tuple[str, ...] = ()
) -> Benchmark:
    """Where everything of a novel split lies.

    Raises:
        UserError: a part is missing; the program that makes it is named.
    """
    regions, tag_file = folder / "regions", folder / "tagger" / "tags.jsonl"
    needed = {
        folder / "split.json": "finetune/prepare_novel_split.py",
        regions / "training" / "manifest.json": "pretrain/extract_regions.py",
        regions / "evaluation" / "manifest.json": "pretrain/extract_regions.py",
        configs_dir() / config: "copying configs/flickr_novel.yaml",
    }
    if tags == "file":
        needed[tag_file] = "pretrain/train_tagger.py"
    for path, maker in needed.items():
        if not path.is_file():
            raise UserError(f"{path}: is missing; make it by {maker} (docs/photographs.md has all commands)")
    vocabulary = folder / "vocabulary.txt"
    overrides = (f"model.vocabulary={vocabulary if vocabulary.is_file() else ''}", *overrides)
    # hints are the tagger's tags; without a tagger there are none
    hints = (f"data.tag_file={tag_file}",) if tags == "file" else ("data.hints=none", "data.tag_dropout=0")
    return Benchmark(
        title=f"novel objects in {folder.name}",
        configs=(config, f"finetune/{config}", f"eval/{config}"),
        pair_regions=regions / "training",
        pair_examples=folder / "tags.jsonl",
        caption_regions=regions / "training",
        caption_examples=folder / "captions.jsonl",
        validation_references=folder / "captions_val.json",
        evaluation_regions=regions / "evaluation",
        evaluation_references=folder / "nocaps_val_captions.json",
        pictures=pictures,
        classes=folder / "classes.json",
        tags=tags,
        tag_file=str(tag_file) if tags == "file" else "",
        records=(folder / "split.json", *((folder / "tagger" / "tagger.json",) if tags == "file" else ())),
        goals=GOALS,
        pretrain=(*hints, *overrides),
        finetune=overrides,
    )
