"""A captioning checkpoint of Oscar or VinVL into a model folder of ours.

    python finetune/import_checkpoint.py checkpoint-29-66420 runs/oscar_base --regions regions/coco_test
    python finetune/import_checkpoint.py checkpoint-29-66420 runs/oscar_base --tokenizer minilm --sha256 1f0c6d...

SOURCE holds config.json, pytorch_model.bin (or model.safetensors, or shards) and vocab.txt. The weights are read as
tensors alone (`weights_only`). training_args.bin is a pickle of a program's arguments and is not read: where the
training had other lengths than the published ones, say so with --max-regions, --max-caption-tokens, --max-tag-tokens.

A checkpoint does not say which detector's features it knows. --regions names a store of them, as
pretrain/convert_features.py makes it; the model then reads stores of that detector and no others.
See docs/checkpoints.md.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vivo.errors import UserError
from vivo.files import atomic_folder, refuse_loss
from vivo.program import exits_cleanly, whole_number

WRITTEN = ("README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
           "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")  # fmt: skip


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Command line of the import; see `vivo.oscar.load_oscar`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder of the checkpoint")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--regions", type=Path, metavar="STORE", help="a store of the features that it was trained on")
    parser.add_argument(
        "--tokenizer", metavar="DIR", help="its vocabulary, where SOURCE has none; minilm: uncased BERT"
    )
    parser.add_argument("--sha256", metavar="HEX", help="what the weight file's SHA-256 must be (8 digits or more)")
    parser.add_argument("--max-regions", type=whole_number(1), default=50, metavar="N", help="default: 50")
    parser.add_argument(
        "--max-caption-tokens", type=whole_number(3), default=40, metavar="N",
        help="max_seq_a_length of its training, where tag positions begin; default: 40",
    )  # fmt: skip
    parser.add_argument(
        "--max-tag-tokens", type=whole_number(1), default=30, metavar="N",
        help="max_seq_length less max_seq_a_length, [SEP] among them; default: 30",
    )  # fmt: skip
    arguments = parser.parse_args(argv)
    if not arguments.source.is_dir():
        raise UserError(f"{arguments.source}: no such folder; give the folder of a checkpoint")
    refuse_loss(arguments.out, WRITTEN, [arguments.source, *filter(None, [arguments.regions])])
    from vivo.data.region_format import sha256_of
    from vivo.data.regions import RegionStore
    from vivo.data.text import load_tokenizer
    from vivo.model_card import CardFacts, write_card
    from vivo.oscar import InputLengths, load_oscar
    from vivo.tensor_files import weight_files
    from vivo.training.checkpoint import save_model
    from vivo.weights import bert_folder

    store = RegionStore(arguments.regions) if arguments.regions else None
    tokenizer = load_tokenizer(bert_folder(arguments.tokenizer) if arguments.tokenizer else arguments.source)
    hashes = {file.name: sha256_of(file) for file in weight_files(arguments.source)}
    for name, found in hashes.items():
        print(f"{name}: SHA-256 {found}")
    if arguments.sha256:
        _check(arguments.source, hashes, arguments.sha256.lower())
    lengths = InputLengths(arguments.max_caption_tokens, arguments.max_tag_tokens, arguments.max_regions)
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "cls", "sep", "mask")}
    model = load_oscar(arguments.source, lengths, region_fingerprint=store.fingerprint if store else "", **special)
    config = model.config
    if len(tokenizer) != config.vocab_size:
        raise UserError(
            f"{arguments.source}: {config.vocab_size} word pieces in the model, {len(tokenizer)} in the tokenizer; give"
            " the folder of the right one with --tokenizer"
        )
    if store is not None:
        store.check_compatible(config.region_fingerprint, config.feature_size)
    with atomic_folder(arguments.out) as folder:
        save_model(folder, model, tokenizer)
        inputs = {name: {"sha256": found} for name, found in hashes.items()}
        if store is not None:
            inputs["regions"] = {"fingerprint": store.fingerprint, "detector": store.detector.get("name", "")}
        origin = "Imported from a captioning checkpoint of Oscar or VinVL by finetune/import_checkpoint.py."
        write_card(folder, config, CardFacts(origin=origin, inputs=inputs))
    head = "tied to the word embeddings" if config.tie_word_embeddings else "with output weights of its own"
    norm = "with" if config.region_layer_norm else "without"
    print(f"{arguments.out}: {config.num_hidden_layers} layers, head {head}, regions {norm} layer norm")
    if config.training_stage != "captions":
        print("this model has not learned to caption yet (a pre-trained checkpoint): init of finetune/train.py")
    if store is None:
        print("its features: not known, so it reads no store; import it again with --regions STORE to caption with it")
    else:
        print(
            f"its features: taken to be those of {arguments.regions} (detector {store.detector.get('name', '')},"
            f" {store.fingerprint}); nothing in a checkpoint can prove that they are"
        )


def _check(source: Path, hashes: dict[str, str], wanted: str) -> None:
    """The one weight file must have that hash."""
    if len(hashes) > 1:
        raise UserError(f"{source}: {len(hashes)} weight files, and --sha256 is of one; compare the lines above")
    if len(wanted) < 8 or not next(iter(hashes.values())).startswith(wanted):
        raise UserError(f"{source}: the SHA-256 is not {wanted}: another or a damaged file; copy it again")


if __name__ == "__main__":
    sys.exit(main())
