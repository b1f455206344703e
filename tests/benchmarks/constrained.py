"""Constrained beam search against plain beam search of as many hypotheses, and its machine against a dense one.

    python tests/benchmarks/constrained.py [--pictures 4] [--beam 5] [--rounds 3] [--small]

BERT-base, 50 regions, 20 tag tokens, captions of 20 tokens (the end token is forbidden), random weights, all cores.

Cost: three constraints, two of one piece and one of two ("traffic light"), each with its plural: eight sets of
satisfied constraints, twelve states. The rival is plain beam search whose width is the mean number of hypotheses that
the constrained search asked the model for at a step; both by turns in one run. The goal is a ratio of 1.3 at most.

Memory, for 1, 3 and 5 constraints: the peak of all tensors that are made in decoding one picture
(tests/live_bytes.py), that of plain beam search with as many hypotheses, and the bytes of the machine. The rival for
the machine is written here as the nocaps baseline (and Oscar) has it: uint8 [states, states, V], one state for each
group of our search; before its size counts it is checked to make the same steps.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time

from vivo.program import set_cpu_defaults

set_cpu_defaults()  # as the programs do: PyTorch reads them when it is loaded
sys.path.append(str(Path(__file__).resolve().parents[1]))

# ruff: noqa: E402
# isort: split
import torch
from decoding import CLS, SEP, TOKENS, made_up
from torch import Tensor

from vivo.cached_step import CachedStep
from vivo.config import DecodeConfig
from vivo.constrained_prediction import constrained_batch
from vivo.decoding.constrained import _Transitions
from vivo.decoding.machine import ConstraintMachine, State
from vivo.decoding.search import beam_search
from vivo.modeling import VivoForCaptioning

CONTINUES = frozenset(range(990, 1000))
FORMS = [
    [(200,), (201,)],
    [(210,), (211,)],
    [(220, 221), (220, 222)],
    [(230,), (231,)],
    [(240,), (241,), (242, 995)],
]


def constrained(model: VivoForCaptioning, batch: dict[str, Tensor], constraints: int, beam: int) -> list[int]:
    """Decode under the first `constraints` of FORMS; hypotheses a picture at each step."""
    pictures = batch["tag_ids"].shape[0]
    machines = [ConstraintMachine(FORMS[:constraints], CONTINUES) for _ in range(pictures)]
    widths: list[int] = []
    call = CachedStep.__call__

    def counted(step: CachedStep, tokens: Tensor, parents: Tensor) -> Tensor:
        widths.append(tokens.shape[1])
        return call(step, tokens, parents)

    CachedStep.__call__ = counted
    try:
        found = constrained_batch(model, batch, machines, DecodeConfig(beam=beam, max_tokens=TOKENS))
    finally:
        CachedStep.__call__ = call
    assert all(not result.fell_back and len(result.hypotheses[0].tokens) == TOKENS for result in found)
    return widths


@torch.inference_mode()
def plain(model: VivoForCaptioning, batch: dict[str, Tensor], beam: int) -> None:
    """Plain beam search, `beam` wide."""
    device = batch["tag_ids"].device
    nothing = torch.empty(0, dtype=torch.int64, device=device)
    step = CachedStep(model, model.encode_context(batch, wanted=nothing), beam * (TOKENS + 1))
    beam_search(step, batch["tag_ids"].shape[0], CLS, SEP, beam, TOKENS, device=device)


def dense_machine(machine: ConstraintMachine, words: int) -> tuple[Tensor, dict[tuple[int, int], int]]:
    """uint8 [states, states, V], 1 where a word leads from one state to the other; and the number of each state.

    A state is what our search makes a group of: the satisfied set and the progress. Without words that go on ('##'), so
    that a form is written as soon as its last piece is, as in the baseline.
    """
    start = (0, 0)
    states, todo, edges = {start: 0}, [start], []
    while todo:
        settled, node = todo.pop()
        for token in sorted(machine.transitions[node].keys() | {0}):  # 0 stands for all other words
            reached = machine.advance(State(settled, node), token)
            satisfied = machine.satisfied(reached)
            progress = machine.progress(reached)
            following = (satisfied, progress)
            if following not in states:
                states[following] = len(states)
                todo.append(following)
            edges.append((states[settled, node], states[following], token))
    table = torch.zeros(len(states), len(states), words, dtype=torch.uint8)
    for before, after, token in edges:
        if token == 0:
            table[before, after] = 1
    for before, after, token in edges:
        if token:
            table[before, :, token] = 0
            table[before, after, token] = 1
    return table, states


def check_dense(table: Tensor, states: dict[tuple[int, int], int], machine: ConstraintMachine) -> None:
    """Raise unless the dense machine is satisfied by the same constraints along random words."""
    tokens = sorted({token for forms in machine.forms for form in forms for token in form}) + [5, 6]
    satisfied = {number: key[0] for key, number in states.items()}
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        state, ours = 0, machine.start
        for place in torch.randint(len(tokens), (30,), generator=generator).tolist():
            state = int(table[state, :, tokens[place]].argmax())
            ours = machine.advance(ours, tokens[place])
            assert satisfied[state] == machine.satisfied(ours)


def peak(work: Callable[[], object]) -> int:
    """Most bytes of tensors that `work` made and held at once."""
    from live_bytes import LiveBytes

    with LiveBytes() as live:
        work()
    return live.peak


def memory(model: VivoForCaptioning, batch: dict[str, Tensor], beam: int) -> list[dict[str, float]]:
    """One row for each number of constraints."""
    words = model.config.vocab_size
    one = {name: values[:1] for name, values in batch.items()}
    rows = []
    for constraints in (1, 3, 5):
        machine = ConstraintMachine(FORMS[:constraints], CONTINUES)
        tables = vars(_Transitions([machine], "cpu")).values()
        sparse = sum(x.nbytes for x in tables if isinstance(x, Tensor)) + words  # and which words go on, bool [V]
        without = ConstraintMachine(FORMS[:constraints])
        table, states = dense_machine(without, words)
        check_dense(table, states, without)
        widths: list[int] = []
        ours = peak(lambda n=constraints, w=widths: w.extend(constrained(model, one, n, beam)))
        rival = peak(lambda w=widths: plain(model, one, max(w)))
        rows.append(
            {"constraints": constraints, "states": len(states), "hypotheses": max(widths), "peak_MB": ours / 1e6,
             "plain_MB": rival / 1e6, "machine_kB": sparse / 1e3, "dense_MB": table.nbytes / 1e6}
        )  # fmt: skip
        row = rows[-1]
        print(
            f"{constraints} constraints, {row['states']} states, {row['hypotheses']} hypotheses: peak"
            f" {row['peak_MB']:.1f} MB a picture (plain beam search of as many: {row['plain_MB']:.1f}), machine"
            f" {row['machine_kB']:.1f} kB (dense: {row['dense_MB']:.1f} MB)",
            flush=True,
        )
    return rows


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, cpu = perf_counter(), process_time()
    work()
    return perf_counter() - wall, process_time() - cpu


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--beam", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="a model of 64 dimensions, to try the program")
    arguments = parser.parse_args()
    model, batch = made_up(arguments.pictures, arguments.small)
    widths = constrained(model, batch, 3, arguments.beam)  # warm, and counted
    width = round(statistics.mean(widths))
    print(f"hypotheses a picture at each step: {widths}; plain beam search with {width}")
    plain(model, batch, width)
    walls, cpus = [], []
    for turn in range(arguments.rounds):
        ours = timed(lambda: constrained(model, batch, 3, arguments.beam))
        rival = timed(lambda: plain(model, batch, width))
        walls.append(ours[0] / rival[0])
        cpus.append(ours[1] / rival[1])
        print(
            f"round {turn + 1}: constrained {ours[0]:.2f} s, plain {rival[0]:.2f} s: ratio {walls[-1]:.3f}"
            f" (CPU seconds {cpus[-1]:.3f})",
            flush=True,
        )
    print(
        f"3 constraints, beam {arguments.beam}: {statistics.median(walls):.3f} times plain beam search of as many"
        f" hypotheses ({min(walls):.3f} to {max(walls):.3f}), goal at most 1.3; of CPU seconds"
        f" {statistics.median(cpus):.3f} ({min(cpus):.3f} to {max(cpus):.3f})"
    )
    rows = memory(model, batch, arguments.beam)
    print(json.dumps({"ratios": walls, "cpu_ratios": cpus, "hypotheses": widths, "memory": rows}))


if __name__ == "__main__":
    main()
