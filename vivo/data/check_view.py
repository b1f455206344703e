"""The page of `vivo data check`: counts, lengths, remarks, problems, and pictures as the model sees them."""

from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from transformers import PreTrainedTokenizerFast

from vivo.attention_mask import joint_attention_mask
from vivo.data.check import DataReport, Lengths
from vivo.data.collate import CaptionCollator, TagCollator
from vivo.data.own import OwnPicture
from vivo.data.types import Regions

_SHOWN = 5  # of each kind of remark
_PROBLEMS = 20


def print_report(report: DataReport, source: str, console: Console) -> None:
    """Everything but the examples; problems last, where they are seen."""
    counts = report.counts
    console.print(f"[bold]{escape(source)}[/bold]")
    for name, parts in (
        ("pictures", ("with captions", "with tags")),
        ("captions", ()),
        ("tags", ("different tags",)),
        ("boxes", ()),
    ):
        if not counts[name]:
            continue
        behind = ", ".join(f"{counts[part]:,} {part}" for part in parts)
        console.print(f"  {name:<10}{counts[name]:>10,}" + (f"   {behind}" if behind else ""), highlight=False)
    console.print(_lengths_table(report.lengths))
    for line in remarks(report):
        console.print(f"[yellow]remark[/yellow]   {escape(line)}", highlight=False, soft_wrap=True)
    if not report.pictures_read:
        console.print("[yellow]remark[/yellow]   the picture files were not opened", highlight=False)
    for line in report.problems[:_PROBLEMS]:
        console.print(f"[red]problem[/red]  {escape(line)}", highlight=False, soft_wrap=True)
    if len(report.problems) > _PROBLEMS:
        rest = len(report.problems) - _PROBLEMS
        console.print(f"[red]problem[/red]  and {rest:,} more (all: --problems FILE)", highlight=False)


def _lengths_table(lengths: Sequence[Lengths]) -> Table:
    table = Table("length", box=None, padding=(0, 1), title_justify="left")
    for column in ("min", "median", "95 %", "max", "limit", "beyond it"):
        table.add_column(column, justify="right")
    for row in lengths:
        if not len(row.values):
            continue
        middle = [np.percentile(row.values, share) for share in (0, 50, 95, 100)]
        share = ""
        if row.limit is not None:
            share = f"{row.over:,} ({100 * row.over / len(row.values):.1f} %)" if row.over else "none"
        table.add_row(row.name, *(f"{value:.0f}" for value in middle), str(row.limit or ""), share)
    return table


def remarks(report: DataReport) -> list[str]:
    """What a person should judge, one line each."""
    lines = []
    cut = {row.name: row for row in report.lengths}
    if over := cut["word pieces a caption"].over:
        limit = cut["word pieces a caption"].limit
        longer = f"{_many(over, 'caption')} of more than {limit} pieces"
        lines.append(f"{longer}: the ends are cut off (model.max_caption_tokens)")
    if over := cut["tag pieces a picture"].over:
        lines.append(
            f"{_many(over, 'picture')} with more tag pieces than fit: in each epoch other ones are left out"
            " (model.max_tag_tokens)"
        )
    if report.unknown:
        examples = ", ".join(f"{word!r} ({count:,})" for word, count in report.unknown.most_common(_SHOWN))
        lines.append(f"{_many(report.unknown.total(), 'word')} that the vocabulary cannot spell, [UNK]: {examples}")
    if report.twins:
        examples = "; ".join(" = ".join(ids) for ids in report.twins[:_SHOWN])
        lines.append(
            f"{_many(len(report.twins), 'picture')} under several ids (same pixels): {examples}; keep them in one set,"
            " or they leak from training into evaluation"
        )
    if report.repeated:
        text, count = report.repeated.most_common(1)[0]
        extra = report.repeated.total() - len(report.repeated)
        lines.append(
            f"{_many(extra, 'repetition')} of captions ({report.repeated_within:,} within one picture);"
            f" the most frequent caption, {count:,} times: {text!r}"
        )
    return lines


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def print_examples(
    pictures: Sequence[OwnPicture],
    tokenizer: PreTrainedTokenizerFast,
    tag_collator: TagCollator,
    caption_collator: CaptionCollator,
    console: Console,
    count: int = 3,
) -> None:
    """Some pictures, evenly spaced, as pieces with [MASK] where training has it in epoch 0; for the first one
    with a caption also who attends to whom."""
    both = [picture for picture in pictures if picture.captions and picture.tags]
    useful = both or [picture for picture in pictures if picture.captions or picture.tags]
    drawn = False
    for place in np.linspace(0, len(useful) - 1, min(count, len(useful))).round().astype(int):
        picture = useful[place]
        console.print(f"\n[bold]picture {escape(picture.image_id)}[/bold] as the model sees it", highlight=False)
        for line in example_lines(picture, tokenizer, tag_collator, caption_collator):
            console.print(f"  {escape(line)}", highlight=False, soft_wrap=True)
        if picture.captions and not drawn:
            drawn = True
            console.print("\n  who (row) attends to whom (column): o yes, . no", highlight=False)
            for line in attention_lines(picture, tokenizer, caption_collator):
                console.print(f"  {escape(line)}", highlight=False, soft_wrap=True)


def example_lines(
    picture: OwnPicture,
    tokenizer: PreTrainedTokenizerFast,
    tag_collator: TagCollator,
    caption_collator: CaptionCollator,
) -> list[str]:
    """Tags and captions of one picture as pieces in the order of the batch, and what [MASK] hides."""
    lines = []
    if picture.tags:
        batch = tag_collator([(0, picture.image_id, picture.tags, [], _no_regions())])
        hidden = tokenizer.convert_ids_to_tokens(batch["target_ids"].tolist())
        lines.append("pre-training  tags      " + " ".join(tokenizer.convert_ids_to_tokens(batch["tag_ids"][0])))
        lines.append("              hidden    " + " ".join(hidden) + "   (any order)")
    if picture.captions:
        batch = caption_collator([(0, picture.image_id, picture.tags, picture.captions, _no_regions())])
        hidden = tokenizer.convert_ids_to_tokens(batch["target_ids"].tolist())
        lines.append("fine-tuning   caption   " + " ".join(tokenizer.convert_ids_to_tokens(batch["text_ids"][0])))
        lines.append("              hidden    " + " ".join(hidden))
        if picture.tags:
            tags = " ".join(tokenizer.convert_ids_to_tokens(batch["tag_ids"][0]))
            lines.append(f"              tags      {tags}   (with data.tags: labels)")
    return lines


def attention_lines(
    picture: OwnPicture, tokenizer: PreTrainedTokenizerFast, caption_collator: CaptionCollator
) -> list[str]:
    """The attention mask of the caption that `example_lines` shows, its tags and one region, a line a token."""
    batch = caption_collator([(0, picture.image_id, picture.tags, picture.captions, _no_regions())])
    context = np.concatenate([batch["tag_mask"][0].numpy(), batch["region_mask"][0].numpy()])
    joint = joint_attention_mask(batch["text_mask"], batch["tag_mask"].new_tensor(context)[None])[0]
    text = tokenizer.convert_ids_to_tokens(batch["text_ids"][0])
    tags = tokenizer.convert_ids_to_tokens(batch["tag_ids"][0])
    names = [*text, *tags, "region"]
    left = max(map(len, names)) + 2
    parts = {"caption": len(text), "tags": len(tags), "regions": 1}
    widths = [max(2 * size - 1, len(head)) + 2 for head, size in parts.items() if size]
    lines = [" " * left + "".join(head.ljust(w) for head, w in zip(filter(parts.get, parts), widths, strict=True))]
    for name, row in zip(names, joint.tolist(), strict=True):
        cells = iter("o" if seen else "." for seen in row)
        sizes = filter(None, parts.values())
        blocks = (" ".join(next(cells) for _ in range(size)).ljust(w) for size, w in zip(sizes, widths, strict=True))
        lines.append(name.ljust(left) + "".join(blocks))
    return [line.rstrip() for line in lines]


def _no_regions() -> Regions:
    """One region of no content: texts do not depend on it."""
    box = np.array([[0, 0, 1, 1]], dtype=np.float32)
    return Regions(box, np.zeros((1, 1), dtype=np.float16), [""], np.ones(1, dtype=np.float32), 1, 1)
