"""A novel-object benchmark, as nocaps is one, from captioned pictures and a list of objects to hold out.

    python finetune/prepare_novel_split.py captions.json --pictures images --suggest
    python finetune/prepare_novel_split.py captions.json OUT --pictures images --held-out bicycle,bike horse car

Captions with a held-out word leave fine-tuning; their pictures stay as image-tag pairs, or are evaluated on.
Reads COCO files, JSON lines and `datasets` sources (docs/data.md); vivo/data/novel_files.py names what it writes.
"""

import argparse
import difflib
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from vivo import __version__
from vivo.data.content import content_hash, each_picture, open_own
from vivo.data.nocaps import DOMAINS, WorldClass
from vivo.data.novel_files import FILES, NovelBenchmark, write_novel_benchmark
from vivo.data.novel_split import HeldOutWords, NovelSplit, SplitPlan, choose_split
from vivo.data.object_words import SCENERY, find_object_words, object_word, read_object_words
from vivo.data.own import OwnPicture
from vivo.data.own_arguments import add_source_arguments, read_source, sources_of
from vivo.detectors.pictures import open_picture
from vivo.errors import UserError
from vivo.files import refuse_loss, writable_folder
from vivo.metrics.tokenizer import ptb_tokenize_all
from vivo.metrics.word_forms import ClassFinder
from vivo.program import exits_cleanly, whole_number

Tokens = list[list[list[str]]]  # [picture][caption][token]


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Command line of the split; see `vivo.data.novel_split`."""
    arguments = _parser().parse_intermixed_args(argv)  # OUT may stand behind options
    if not arguments.suggest and arguments.out is None:
        raise UserError(
            "no folder to write: give OUT before --held-out (or --suggest, to see which objects can be held out)"
        )
    if not arguments.suggest:
        refuse_loss(arguments.out, FILES, sources_of(arguments))
    data = read_source(arguments).or_raise()
    pictures = [picture for picture in data.pictures if picture.captions]
    if not pictures:
        raise UserError(f"{arguments.source}: no picture has a caption")
    if any(picture.data is not None for picture in pictures) and not arguments.suggest:
        raise UserError(
            f"{arguments.source}: holds the pictures themselves; write them as files with finetune/prepare_own.py"
            " and give its captions.json here"
        )
    tokens = tokenize(pictures)
    objects = (
        read_object_words(arguments.objects)
        if arguments.objects
        else find_object_words(caption for picture in tokens for caption in picture)
    )
    scenery_words = SCENERY
    if arguments.scenery:
        scenery_words = {form for entry in read_object_words(arguments.scenery) for form in entry.forms}
    plan = SplitPlan(
        arguments.seed,
        arguments.evaluation,
        arguments.min_evaluation_each,
        arguments.min_pairs,
        arguments.in_domain,
        arguments.validation,
        arguments.agree,
    )
    if arguments.suggest:
        print_suggestions(tokens, objects, scenery_words, plan)
        return

    writable_folder(arguments.out.parent)
    classes = hold_out(objects, held_out_words(arguments.held_out, arguments.held_out_file))
    naming = count_naming(tokens, classes)
    kept = (naming > 0).any(axis=0) | [entry.role == "novel" for entry in classes]
    classes, naming = [entry for entry, stays in zip(classes, kept, strict=True) if stays], naming[:, kept]
    _refuse_unknown(classes, naming, objects)
    tags, tagged = tags_of(pictures, classes, naming, arguments.tags)
    words = HeldOutWords([entry for entry in classes if entry.role == "novel"])
    betrayed = np.array([any(words.first(caption) for caption in picture.captions) for picture in pictures])
    scenery = np.array([entry.name in scenery_words for entry in classes])

    def split_with(twins: np.ndarray) -> NovelSplit:
        return choose_split(naming, tagged, betrayed, scenery, twins, classes, plan, arguments.pairs)

    split_with(np.arange(len(pictures)))  # too few pictures? Better said before all of them are read
    hashes = hash_pictures(pictures)
    twins = np.unique(hashes, return_inverse=True)[1]
    split = split_with(twins)
    counts = object_counts(classes, naming, tagged, split)
    record = {
        "vivo": __version__,
        "source": Path(arguments.source).name,
        "object words": (
            f"of {arguments.objects.name}" if arguments.objects else "found in all captions, those of evaluation too"
        ),
        "options": asdict(plan) | {"pairs": arguments.pairs, "tags": arguments.tags},
        "pictures": {
            "all": len(pictures),
            "pairs": len(split.pairs),
            "finetuning": len(split.finetuning),
            "validation": len(split.validation),
            **{domain: split.domains.count(domain) for domain in DOMAINS},
        },
        "held_out": counts,
    }
    pieces = word_pieces(pictures, tags, split, arguments.vocabulary) if arguments.vocabulary else ()
    write_novel_benchmark(
        NovelBenchmark(arguments.source, pictures, tags, hashes, classes, split, record, pieces), arguments.out
    )
    print_split(record, len(pictures) - len(np.unique(twins)))
    print(f"written and checked: {arguments.out}\nnext:")
    for name in ("training", "evaluation"):
        store = arguments.out / "regions" / name
        pictures_list = f"--list {arguments.out}/{name}_pictures.tsv"
        print(f"    pretrain/extract_regions.py {data.folder} {store} {pictures_list} --detector grid")


def tokenize(pictures: Sequence[OwnPicture]) -> Tokens:
    """Tokens of every caption of every picture, as the metrics have them."""
    flat = iter(ptb_tokenize_all([caption for picture in pictures for caption in picture.captions]))
    return [[next(flat) for _ in picture.captions] for picture in pictures]


def held_out_words(words: Sequence[str], file: Path | None) -> list[WorldClass]:
    """The objects to hold out, from the command line (`name` or `name,other name`) and from a list file."""
    found = [object_word(word.split(","), "novel") for word in words]
    if file is not None:
        found += [replace(entry, role="novel") for entry in read_object_words(file)]
    if not found:
        raise UserError("no object to hold out; name some with --held-out or --held-out-file (--suggest shows which)")
    return list({entry.name: entry for entry in found}.values())


def hold_out(objects: Sequence[WorldClass], novel: Sequence[WorldClass]) -> list[WorldClass]:
    """Base objects and held-out ones; what the list knows under one of a held-out object's names becomes part of it."""
    owner = {form: entry.name for entry in novel for form in (entry.name, *entry.forms)}
    forms = {entry.name: list(entry.forms) for entry in novel}
    base = []
    for entry in objects:
        name = owner.get(entry.name)
        if name is None:
            base.append(replace(entry, role="base"))
        else:
            forms[name] += [form for form in entry.forms if form not in forms[name]]
    return base + [replace(entry, forms=forms[entry.name]) for entry in novel]


def count_naming(tokens: Tokens, classes: Sequence[WorldClass]) -> np.ndarray:
    """int16 [N, C]: captions of each picture that name each class."""
    finder = ClassFinder(classes)
    naming = np.zeros((len(tokens), len(classes)), dtype=np.int16)
    for row, captions in enumerate(tokens):
        for caption in captions:
            naming[row, list(finder.find(caption))] += 1
    return naming


def _refuse_unknown(classes: Sequence[WorldClass], naming: np.ndarray, objects: Sequence[WorldClass]) -> None:
    never = [entry.name for entry, count in zip(classes, naming.sum(axis=0), strict=True) if count == 0]
    if never:
        near = difflib.get_close_matches(never[0], [entry.name for entry in objects], 3)
        guess = f"; near it: {', '.join(near)}" if near else ""
        raise UserError(f"no caption names {', '.join(never)}{guess}; --suggest shows what captions name")


def tags_of(
    pictures: Sequence[OwnPicture], classes: Sequence[WorldClass], naming: np.ndarray, source: str
) -> tuple[list[list[str]], np.ndarray]:
    """Tags of each picture in pre-training, and bool [N, C] which classes are among them.

    Args:
        source: "captions": the classes that any caption names; "given": the tags (or box labels) of the source,
            under the names of the classes where they are one of its forms.
    """
    names = [entry.name for entry in classes]
    if source == "captions":
        tagged = naming > 0
        return [[names[c] for c in np.flatnonzero(row)] for row in tagged], tagged
    class_of = {form: c for c, entry in enumerate(classes) for form in (entry.name, *entry.forms)}
    tagged = np.zeros(naming.shape, dtype=bool)
    tags = []
    for row, picture in enumerate(pictures):
        clean = [" ".join(tag.lower().split()) for tag in picture.tags]
        known = {class_of[tag] for tag in clean if tag in class_of}
        tagged[row, list(known)] = True
        tags.append(list(dict.fromkeys(names[class_of[tag]] if tag in class_of else tag for tag in clean)))
    if not any(tags):
        raise UserError("--tags given: no picture has tags; give --instances, or take --tags captions")
    return tags, tagged


def word_pieces(
    pictures: Sequence[OwnPicture], tags: Sequence[Sequence[str]], split: NovelSplit, size: int
) -> list[str]:
    """The text model's word pieces that the benchmark's models keep: no text of evaluation has a say."""
    from vivo.data.text import load_tokenizer
    from vivo.data.vocabulary import choose_pieces
    from vivo.weights import bert_folder

    names = sorted({tag for place in split.pairs for tag in tags[place]})
    captions = [caption for place in split.finetuning for caption in pictures[place].captions]
    try:
        return choose_pieces(load_tokenizer(bert_folder("minilm")), [*names, *captions], size)
    except ValueError as error:
        raise UserError(f"--vocabulary {size}: {error}; allow more, or all with 0") from error


def hash_pictures(pictures: Sequence[OwnPicture]) -> list[str]:
    """Content hash of every picture.

    Raises:
        UserError: pictures that are missing or broken: how many, and the first.
    """

    def digest(picture: OwnPicture) -> str | UserError:
        try:
            return content_hash(open_own(picture, open_picture))
        except UserError as error:
            return error

    hashes = list(each_picture(digest, pictures))
    broken = [entry for entry in hashes if isinstance(entry, UserError)]
    if broken:
        raise UserError(f"{len(broken)} of {len(pictures)} pictures cannot be read (the first: {broken[0]})")
    return hashes


def object_counts(
    classes: Sequence[WorldClass], naming: np.ndarray, tagged: np.ndarray, split: NovelSplit
) -> list[dict[str, object]]:
    """For each held-out object: its forms, pre-training pairs, evaluation pictures by domain."""
    domains = np.array(split.domains)
    rows: list[dict[str, object]] = []
    for c, entry in enumerate(classes):
        if entry.role == "novel":
            named = naming[split.evaluation, c] > 0
            rows.append(
                {
                    "object": entry.name,
                    "forms": entry.forms,
                    "pairs": int(tagged[split.pairs, c].sum()),
                    "evaluation": int(named.sum()),
                    "near": int((named & (domains == "near-domain")).sum()),
                    "out": int((named & (domains == "out-domain")).sum()),
                }
            )
    return rows


def print_split(record: dict, twins: int) -> None:
    """The table of counts."""
    table = Table("held-out object", "words", title="image-tag pairs and evaluation pictures of held-out objects")
    for column in ("pairs", "evaluation", "near", "out"):
        table.add_column(column, justify="right")
    for row in record["held_out"]:
        numbers = [f"{row[key]:,}" for key in ("pairs", "evaluation", "near", "out")]
        table.add_row(str(row["object"]), ", ".join(row["forms"]), *numbers)
    console = Console()
    console.print(table)
    counts = record["pictures"]
    domains = ", ".join(f"{counts[domain]:,} {domain}" for domain in DOMAINS)
    console.print(
        f"{counts['all']:,} pictures: {counts['pairs']:,} image-tag pairs, {counts['finetuning']:,} for fine-tuning, "
        f"{counts['validation']:,} for validation, evaluation {domains}; {twins:,} exist under another id too",
        highlight=False,
        soft_wrap=True,
    )


def print_suggestions(
    tokens: Tokens, objects: Sequence[WorldClass], scenery: Sequence[str], plan: SplitPlan, most: int = 60
) -> None:
    """Objects with enough pictures to be held out, and what a choice would mean."""
    naming = count_naming(tokens, objects)
    named = naming > 0
    pictures = named.sum(axis=0)
    things = np.array([entry.name not in scenery for entry in objects])
    shown = (naming >= plan.agree) & things
    table = Table(title="objects that can be held out, by pictures that name them")
    table.add_column("object", no_wrap=True)
    for column in ("pictures", "captions each", "alone"):
        table.add_column(column, justify="right")
    table.add_column("most often beside", no_wrap=True)
    fitting = [c for c in np.argsort(-pictures, kind="stable") if things[c]]
    fitting = [c for c in fitting if pictures[c] >= plan.pairs_each + plan.evaluation_each]
    if not fitting:
        raise UserError(
            f"no object is named by {plan.pairs_each + plan.evaluation_each} pictures (--min-pairs and"
            " --min-evaluation-each); take more pictures or lower them"
        )
    together = named.T.astype(np.float32) @ named.astype(np.float32)
    for c in fitting[:most]:
        others = shown[named[:, c]].copy()
        others[:, c] = False
        share = together[c] / pictures[c]
        share[c] = 0
        beside = ", ".join(f"{objects[o].name} {100 * share[o]:.0f} %" for o in np.argsort(-share)[:2] if share[o] > 0)
        table.add_row(
            objects[c].name,
            f"{pictures[c]:,}",
            f"{naming[named[:, c], c].mean():.1f}",
            f"{(~others.any(axis=1)).sum():,}",
            beside,
        )
    console = Console()
    console.print(table)
    console.print(
        f"alone: no other object is named by {plan.agree} captions or more: such pictures become out-domain.\n"
        "Two words that are nearly always beside one another may be one object: hold them out together (bicycle,bike).",
        highlight=False,
        soft_wrap=True,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_source_arguments(parser)
    parser.add_argument("out", type=Path, nargs="?", help="folder to write; replaced if it holds nothing else")
    parser.add_argument("--suggest", action="store_true", help="only print which objects could be held out")
    parser.add_argument("--held-out", nargs="+", default=[], metavar="WORD", help="`name` or `name,other name`")
    parser.add_argument("--held-out-file", type=Path, help="the same as a list file, one object a line")
    parser.add_argument("--objects", type=Path, help="list of all object words; default: found in the captions")
    parser.add_argument(
        "--tags",
        choices=("captions", "given"),
        default="captions",
        help="tags of the image-tag pairs: objects that the captions name (default), or the tags of the source",
    )
    parser.add_argument(
        "--pairs",
        choices=("all", "apart"),
        default="all",
        help="image-tag pairs: all training pictures (default), or none that fine-tuning sees",
    )
    parser.add_argument(
        "--vocabulary",
        type=whole_number(0),
        default=8192,
        metavar="N",
        help="word pieces that the models keep of the text model's, at least all that training texts use; 0 for all; "
        "default: 8192",
    )
    parser.add_argument("--scenery", type=Path, help="list of words that do not count for domains (grass, street)")
    parser.add_argument("--seed", type=whole_number(0), default=0, metavar="N")
    default = SplitPlan()
    for name, text in (
        ("evaluation", "evaluation pictures that show held-out objects"),
        ("min-evaluation-each", "of them, at least so many of each object"),
        ("min-pairs", "image-tag pairs that each held-out object keeps at least"),
        ("in-domain", "evaluation pictures without held-out objects"),
        ("validation", "such pictures for validation while training"),
        ("agree", "captions that must name a base object before it counts for the domain"),
    ):
        field = {"min-evaluation-each": "evaluation_each", "min-pairs": "pairs_each", "in-domain": "in_domain"}
        value = getattr(default, field.get(name, name))
        parser.add_argument(
            f"--{name}", type=whole_number(0), default=value, metavar="N", help=f"{text}; default: {value}"
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
