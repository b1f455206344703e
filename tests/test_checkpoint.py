"""Checkpoints that something has happened to: never loaded for what they are not, never lost from sight."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from test_modeling import small_model
from test_training import config_for

from vivo.data.text import load_tokenizer
from vivo.errors import UserError
from vivo.modeling import VivoForTagPretraining
from vivo.training.checkpoint import (
    Checkpoint,
    list_checkpoints,
    newest_checkpoint,
    open_checkpoint,
    save_checkpoint,
    set_aside_newer,
    state_text,
)
from vivo.training.engine import find_checkpoint
from vivo.weights import bert_folder

RUN = {"seed": 0, "optim.batch_size": 4}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of a small model at steps 2, 4 and 6."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    model, tokenizer = small_model(VivoForTagPretraining), load_tokenizer(bert_folder("minilm"))
    optimizer = torch.optim.AdamW(model.parameters())
    for step in (2, 4, 6):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 0.1)
        optimizer.step()
        save_checkpoint(folder, step, model, tokenizer, optimizer, None, 9, RUN, {"wandb_id": "abc"})
    return folder


@pytest.fixture
def three(saved: Path, tmp_path: Path) -> Path:
    """A copy of them, to be damaged."""
    shutil.copytree(saved, tmp_path / "checkpoints")
    return tmp_path / "checkpoints"


def rewrite(checkpoint: Path, **changes: object) -> None:
    """Change values of a state.json as a fault, or a person, would: its hash stays."""
    file = checkpoint / "state.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_one_flipped_bit_of_state_json_is_noticed_wherever_it_is(three: Path):
    """A bit of each byte: refused with a line that names the file, or (where only spacing changed) read as it was."""
    (*_, last) = list_checkpoints(three)
    whole, file = open_checkpoint(last), last / "state.json"
    content = file.read_bytes()
    read_as_it_was = 0
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        file.write_bytes(flipped)
        try:
            assert open_checkpoint(last) == whole, f"byte {place}: {bytes(flipped[place - 20 : place + 20])!r}"
            read_as_it_was += 1
        except UserError as error:
            assert str(file) in str(error) and "\n" not in str(error)
    assert read_as_it_was < 30  # of about 3,000
    file.write_bytes(content)
    assert open_checkpoint(last) == whole == Checkpoint(last, 6, RUN, {"wandb_id": "abc"})


@pytest.mark.parametrize(
    "changes",
    [{"step": 7}, {"step": 8}, {"step": 0}, {"step": "6"}, {"run": RUN | {"seed": 1}}, {"run": []}, {"files": {}}],
)
def test_another_state_is_passed_over_for_the_one_before(three: Path, changes: dict):
    (*_, before, last) = list_checkpoints(three)
    rewrite(last, **changes)
    said: list[str] = []
    assert newest_checkpoint(three, said.append) == open_checkpoint(before)
    assert len(said) == 1 and said[0].startswith(f"checkpoint passed over: {last / 'state.json'}: ")


@pytest.mark.parametrize(
    "changes, what",
    [
        ({"step": 4}, "says step 4, but the folder's name says 6"),
        ({"step": True}, "holds no number of updates"),
        ({"run": []}, "holds no settings"),
        ({"files": {}}, "names no model.safetensors"),
        ({"files": {"model.safetensors": {}, "optimizer.safetensors": {}}}, "cannot be read"),
    ],
)
def test_a_state_of_a_right_hash_must_still_be_that_of_a_checkpoint(three: Path, changes: dict, what: str):
    """Whoever writes one by hand, or a later version."""
    (*_, last) = list_checkpoints(three)
    state = json.loads((last / "state.json").read_text()) | changes
    (last / "state.json").write_text(state_text(state))
    with pytest.raises(UserError, match=what):
        open_checkpoint(last)


def test_a_checkpoint_of_older_code_is_refused_in_one_line(three: Path):
    (*_, last) = list_checkpoints(three)
    state = json.loads((last / "state.json").read_text())
    del state["sha256"]
    (last / "state.json").write_text(json.dumps(state))
    with pytest.raises(UserError, match="has no hash of itself: it is damaged, or of an older version") as told:
        open_checkpoint(last)
    assert "\n" not in str(told.value)


def test_folders_that_changed_places_are_passed_over_and_the_one_taken_stays(three: Path):
    """Step 6 holds what step 2 held: 4 is taken, and 6 alone is set aside."""
    two, four, six = list_checkpoints(three)
    shutil.rmtree(six)
    two.rename(six)
    said: list[str] = []
    begun = newest_checkpoint(three, said.append)
    assert begun.path == four and "says step 2, but the folder's name says 6" in said[0]
    set_aside_newer(begun.path)
    assert names(three) == [four.name, f"{six.name}.damaged"]


def test_a_copy_under_another_name_can_be_gone_on_from(three: Path):
    (*_, last) = list_checkpoints(three)
    copy = shutil.copytree(last, three.parent / "kept_for_later")
    assert open_checkpoint(copy).step == 6


def test_damaged_checkpoints_are_no_empty_run(three: Path):
    """With nothing but `.damaged` left a run would begin at step 0 without a word."""
    config = config_for(three.parent, three.parent, "tags")
    for checkpoint in list_checkpoints(three):
        rewrite(checkpoint, step=0)
    before = names(three)
    with pytest.raises(UserError, match="none of its 3 checkpoints is whole; remove them to begin again"):
        find_checkpoint(config, three, RUN)
    assert names(three) == before  # nothing is renamed while there is none to go on from
    for checkpoint in list_checkpoints(three):
        checkpoint.rename(checkpoint.with_name(f"{checkpoint.name}.damaged"))
    for resume in ("auto", "never", str(three / "step_00000006.damaged")):
        config.engine.resume = resume
        with pytest.raises(
            UserError, match="holds damaged checkpoints alone .*step_00000006.damaged.*; remove them to begin"
        ):
            find_checkpoint(config, three, RUN)
    shutil.rmtree(three)
    config.engine.resume = "auto"
    assert find_checkpoint(config, three, RUN) is None


def test_other_settings_are_refused_before_anything_is_renamed(three: Path):
    (*_, last) = list_checkpoints(three)
    (last / "model.safetensors").write_bytes(b"")
    config, before = config_for(three.parent, three.parent, "tags"), names(three)
    with pytest.raises(UserError, match="was trained with seed 0, and now it is 1"):
        find_checkpoint(config, three, RUN | {"seed": 1})
    assert names(three) == before
    assert find_checkpoint(config, three, RUN).step == 4
    assert names(three) == [*before[:2], f"{last.name}.damaged"]
