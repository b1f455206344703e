"""When things happen in a run, in updates, and the learning rate: pure functions of the step, no state to resume."""

import math
from dataclasses import dataclass

from vivo.config import TrainConfig
from vivo.durations import parse_duration
from vivo.errors import UserError


@dataclass(frozen=True)
class Schedule:
    """A run's durations as updates; 0 = only at the end (warm-up: none).

    `steps`: all updates. `lr`: the peak, reached after `warmup` updates; `shape`: its fall from there, with "stairs"
    times `decay_factor` after each `decay_every` updates of the whole run.
    `drop_worst_from`: the first update (from 0) whose caption loss leaves out its worst tokens. `scheduled_from`: see
    `scheduled_share`.
    """

    steps: int
    lr: float = 1.0
    shape: str = "linear"
    warmup: int = 0
    log_every: int = 0
    validate_every: int = 0
    save_every: int = 0
    drop_worst_from: int = 0
    decay_every: int = 0
    decay_factor: float = 1.0
    scheduled_from: int = 0

    @classmethod
    def of(cls, config: TrainConfig, examples: int) -> "Schedule":
        """The durations of `config` for a training set of so many pictures.

        Raises:
            UserError: the warm-up is longer than the run, which would never reach its learning rate; scheduled sampling
                would begin behind the run.
        """
        optim, tracking = config.optim, config.tracking
        steps = parse_duration(optim.duration).steps(optim.batch_size, examples)

        def updates(text: str) -> int:
            return parse_duration(text).steps(optim.batch_size, examples, steps)

        warmup = updates(optim.warmup)
        if warmup > steps:
            raise UserError(
                f"optim.warmup: {optim.warmup} is {warmup:,} updates, more than the {steps:,} of optim.duration, "
                f"{optim.duration}; make it shorter"
            )
        scheduled_from = updates(config.show_and_tell.scheduled_from)
        if scheduled_from and scheduled_from >= steps - 1:
            raise UserError(
                f"show_and_tell.scheduled_from: {config.show_and_tell.scheduled_from} is {scheduled_from:,} updates of "
                f"{steps:,}: no word would be drawn; make it shorter"
            )
        return cls(
            steps,
            optim.lr,
            optim.schedule,
            warmup,
            updates(tracking.log_every),
            updates(tracking.validate_every),
            updates(tracking.save_every),
            updates(config.loss.drop_worst_from),
            updates(optim.decay_every),
            optim.decay_factor,
            scheduled_from,
        )

    def learning_rate(self, step: int) -> float:
        """The rate of update number `step` (from 0): linear warm-up, then the schedule's fall."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        if self.shape == "linear":
            return self.lr * (1.0 - done)
        if self.shape == "cosine":
            return self.lr * 0.5 * (1.0 + math.cos(math.pi * done))
        if self.shape == "stairs":
            return self.lr * self.decay_factor ** (step // self.decay_every)
        return self.lr

    def scheduled_share(self, step: int, most: float) -> float:
        """Scheduled sampling's share of drawn words in update `step`: 0 until `scheduled_from`, then on a line up to
        `most` in the last update."""
        begun = step - self.scheduled_from
        return most * begun / max(1, self.steps - 1 - self.scheduled_from) if begun > 0 else 0.0

    def due(self, every: int, done: int) -> bool:
        """Whether something of period `every` is to happen after `done` updates; always after the last one."""
        return done == self.steps or (every > 0 and done % every == 0)
