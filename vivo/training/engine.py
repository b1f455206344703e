"""One training run from its parts: processes, resume, optimizer, loader, loop, final model. Both stages share it.

Where a run starts, first rule that holds:

1. `engine.resume: never`: at `init`; a folder with checkpoints is refused.
2. `out` holds checkpoints: the newest whole one. Damaged ones are named, passed over and set aside; where none is
   whole, or where only those that were set aside are left, the run does not begin again by itself.
3. `engine.resume` is the folder of a checkpoint, of another run: weights, optimizer and step are its.
4. At `init`, step 0. A finished run that has left no checkpoint is not begun again: given with the same configuration
   it is finished, with another one it is refused.

A checkpoint says what was learned there (`vivo.training.identity`): seed, batch size, examples, detector, masks, loss.
With others its step would stand for something else, so they are refused; learning rate, duration, number of processes
and micro-batches may change.
"""

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from vivo.config import TrainConfig, to_yaml
from vivo.errors import UserError
from vivo.files import atomic_folder, atomic_write_json, atomic_write_text, writable_folder
from vivo.model_card import facts_of_run, write_card
from vivo.training import inputs
from vivo.training.averages import Averages
from vivo.training.best import Best
from vivo.training.checkpoint import (
    Checkpoint,
    gathered,
    is_sharded,
    list_checkpoints,
    list_damaged,
    load_checkpoint,
    newest_checkpoint,
    open_checkpoint,
    save_checkpoint,
    save_model,
    set_aside_newer,
    whole_copy,
)
from vivo.training.identity import check_goes_on, check_same_everywhere, identity
from vivo.training.interruption import Interruption
from vivo.training.loading import micro_batches
from vivo.training.loop import Training, Validate, train
from vivo.training.optim import build_optimizer, describe_parameters, name_parameters
from vivo.training.runtime import environment, make_accelerator
from vivo.training.schedule import Schedule
from vivo.training.tasks import Task
from vivo.training.tracking import Tracker, read_records

FINISHED = "finished"


def run_training(
    config: TrainConfig,
    tokenizer: PreTrainedTokenizerFast,
    model: PreTrainedModel,
    task: Task,
    finish: Callable[[Path], None],
    validation: Callable[[Accelerator], Validate | None],
) -> Path:
    """Train `model` on `task` as `config` says.

    Args:
        model: at step 0. task: what it learns from. finish: adds files to the final model's folder.
        validation: makes what is called at each validation; called on all processes.

    Returns:
        `out`/model, the final weights (their averages where `optim.ema` is above 0).

    Raises:
        UserError, Stopped: see `loop.train`; also a checkpoint of other settings.
    """
    with Interruption() as interruption:  # until the final model is written
        return _run(config, tokenizer, model, task, finish, validation, interruption)


def _run(
    config: TrainConfig,
    tokenizer: PreTrainedTokenizerFast,
    model: PreTrainedModel,
    task: Task,
    finish: Callable[[Path], None],
    validation: Callable[[Accelerator], Validate | None],
    interruption: Interruption,
) -> Path:
    out, data = writable_folder(config.out), task.data
    accelerator = make_accelerator(config.optim.precision, config.engine.timeout)
    main = accelerator.is_main_process
    schedule = Schedule.of(config, len(data))
    folder, settings = out / "checkpoints", identity(config, data, tokenizer, model)
    begun = _starting_point(config, folder, settings, accelerator)
    if begun == FINISHED:
        if main:
            print(f"{out}: is finished; to train anew, name another out or remove it", flush=True)
        return out / "model"
    start = begun.step if begun else 0

    if config.engine.activation_checkpointing:
        model.checkpoint_activations()
    if config.engine.compile:
        model.compile(dynamic=True)
    optimizer = build_optimizer(model, config.optim)
    prepared, optimizer = accelerator.prepare(model, optimizer)
    plain = accelerator.unwrap_model(prepared)
    averages = Averages(plain, config.optim.ema) if config.optim.ema else None
    if begun:
        load_checkpoint(begun.path, plain, optimizer, averages)
        if accelerator.scaler is not None and "scaler" in begun.extra:
            accelerator.scaler.load_state_dict(begun.extra["scaler"])
    sampler = task.order(
        len(data),
        config.optim.batch_size,
        config.seed,
        start,
        schedule.steps,
        accelerator.process_index,
        accelerator.num_processes,
        config.optim.micro_batch_size,
    )
    if main:
        atomic_write_text(out / "config.yaml", to_yaml(config))
        atomic_write_json(out / "environment.json", environment())
        atomic_write_json(out / inputs.FILE, inputs.data_facts(config))
    validate = validation(accelerator)
    # another run's checkpoint begins a W&B run of its own, and knows nothing of this run's best
    own = begun.extra if begun and begun.path.parent == folder else {}
    best = Best(out / "best", config.tracking.best, config.tracking.stop_after, own.get("best"))
    run_id = own.get("wandb_id", "")
    resolved, name = dataclasses.asdict(config), f"{config.objective} {out.name}"

    def validated(model: PreTrainedModel, done: int) -> dict[str, Any]:
        with _averaged(averages):
            weights = gathered(model.state_dict()) if is_sharded(model) else None
            record = validate(whole_copy(model, weights) if weights else model, done)
            if best.take(done, record) and main:
                try:
                    best.keep(done, lambda folder: save_model(folder, model, tokenizer, weights))
                except (OSError, UserError, SafetensorError) as error:
                    tracker.say(f"WARNING: best model not kept: {error}; training goes on")
        return record

    def save(done: int) -> None:
        extra = {"wandb_id": tracker.run_id, "best": best.state()}
        if accelerator.scaler is not None:
            extra["scaler"] = accelerator.scaler.state_dict()
        keep = config.tracking.keep
        try:
            save_checkpoint(folder, done, plain, tokenizer, optimizer, averages, keep, settings, extra, main)
        except (OSError, UserError) as error:  # a full disk may be emptied before the next one is due
            tracker.say(f"WARNING: {error}; training goes on, older checkpoints are kept")
        # a process that ended while another one writes would have its launcher end that one, too
        accelerator.wait_for_everyone()

    with Tracker(out, config.tracking, resolved, schedule.steps, start, name, main, run_id) as tracker:
        tracker.say(
            f"{config.objective}: {len(data)} pictures, {schedule.steps} updates of {config.optim.batch_size} pictures "
            f"({accelerator.num_processes} processes x {sampler.micro_batches} micro-batches), "
            f"{accelerator.mixed_precision}; {describe_parameters(plain)}" + (f"; resumed at {start}" if start else "")
        )
        for line in name_parameters(plain):
            tracker.say(line)
        train(
            Training(
                config,
                schedule,
                start,
                accelerator,
                prepared,
                optimizer,
                averages,
                micro_batches(data, sampler, task.collator, config.data.workers),
                task.prepare,
                sampler.micro_batches,
                task.loss,
                validated if validate else None,
                _validation_is_missing(out, schedule, start, accelerator),
                best.over,
                save,
                tracker,
                interruption,
            )
        )
    final = out / "model"
    with _averaged(averages):
        weights = gathered(plain.state_dict())  # not copied unless sharded: to be saved while they are the averages
        if main:
            try:
                with atomic_folder(final) as temporary:
                    save_model(temporary, plain, tokenizer, weights)
                    write_card(temporary, plain.config, facts_of_run(out))
                    finish(temporary)
            except OSError as error:
                raise UserError(
                    f"cannot write {final}: {error}; make room and give the same command again, "
                    "which goes on from the newest checkpoint"
                ) from error
    accelerator.wait_for_everyone()
    return final


def _starting_point(
    config: TrainConfig, folder: Path, settings: dict[str, Any], accelerator: Accelerator
) -> Checkpoint | str | None:
    """The checkpoint to go on from by the rules above; None: at `init`; FINISHED. Found by rank 0 for all."""
    check_same_everywhere(gather_object([settings]))
    found: list[Any] = [None]
    if accelerator.is_main_process:
        try:
            found = [find_checkpoint(config, folder, settings)]
        except UserError as error:
            found = [error]
    broadcast_object_list(found)
    if isinstance(found[0], UserError):
        raise found[0]
    return found[0]


def find_checkpoint(config: TrainConfig, folder: Path, settings: dict[str, Any]) -> Checkpoint | str | None:
    """The checkpoint to go on from by the rules above, or FINISHED; newer ones, all of them damaged, are set aside.

    Args:
        folder: of the run's own checkpoints. settings: what a checkpoint's `run` must say.

    Raises:
        UserError: checkpoints are there and none can be gone on from, or that of other settings; or a finished model of
            another configuration.
    """
    resume = config.engine.resume
    own, finished = list_checkpoints(folder), (folder.parent / "model").is_dir()
    if (
        not own and not finished and (damaged := list_damaged(folder))
    ):  # not an empty run: its updates would be lost in silence
        raise UserError(
            f"{folder}: holds damaged checkpoints alone (the newest: {damaged[-1].name}); remove them to begin again, "
            "or choose another out"
        )
    if resume == "never":
        if own:
            raise UserError(
                f"{folder}: holds checkpoints, but engine.resume is never; remove them or choose another out"
            )
        return None
    begun = None
    if own:
        begun = newest_checkpoint(folder, lambda text: print(text, flush=True))
        if begun is None:
            raise UserError(f"{folder}: none of its {len(own)} checkpoints is whole; remove them to begin again")
    elif finished:
        return _check_finished(config, folder.parent)
    elif resume != "auto":
        begun = open_checkpoint(Path(resume))
    if begun:
        check_goes_on(begun.run, settings, begun.path)
    if own and begun:
        set_aside_newer(begun.path)
    return begun


def _check_finished(config: TrainConfig, out: Path) -> str:
    """FINISHED, where `out` holds the final model of this very configuration and no checkpoint."""
    path = out / "config.yaml"
    if path.is_file() and path.read_text(encoding="utf-8") == to_yaml(config):
        return FINISHED
    raise UserError(
        f"{out}: holds the finished model of another configuration and no checkpoint to go on from; name another out, "
        "or remove it"
    )


def _validation_is_missing(out: Path, schedule: Schedule, start: int, accelerator: Accelerator) -> bool:
    """Whether a run that goes on was stopped between an update and the validation behind it; told by rank 0."""
    found = [False]
    if accelerator.is_main_process and start and schedule.due(schedule.validate_every, start):
        records = read_records(out / "metrics.jsonl")
        found = [not any(r["step"] == start and any(n.startswith("validation_") for n in r) for r in records)]
    broadcast_object_list(found)
    return found[0]


def _averaged(averages: Averages | None) -> AbstractContextManager[None]:
    """Within the block the weights are their averages, if there are any."""
    return averages.applied() if averages else nullcontext()
