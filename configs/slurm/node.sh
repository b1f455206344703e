#!/usr/bin/env bash
# One node's part of a job: starts accelerate for the node's GPUs and passes USR1 on to the training processes.
# configs/slurm/job.sh gives it to srun; arguments: PROGRAM CONFIG [key=value ...].
#
# SLURM may give a signal to every process of a task. The launcher would die of USR1 and leave its workers alone, so it
# is started with that signal ignored. That is inherited, too: a second USR1 does not end a worker that is busy with the
# first one, for which it has a handler (vivo/training/interruption.py).

set -uo pipefail

per_node="${SLURM_GPUS_ON_NODE:-1}"
all=$((SLURM_NNODES * per_node))
several=(--multi_gpu --num_machines "$SLURM_NNODES" --machine_rank "$SLURM_NODEID" --same_network --rdzv_backend static)
several+=(--main_process_ip "$MASTER_ADDR" --main_process_port "$MASTER_PORT")
if ((all == 1)); then several=(--num_machines 1); fi

(
    trap '' USR1
    exec "$VIVO_PYTHON" -m accelerate.commands.launch "${several[@]}" --num_processes "$all" \
        --mixed_precision no --dynamo_backend no "$@"
) &
launcher=$!

forward() {
    local workers
    workers="$(cat "/proc/$launcher/task/$launcher/children" 2>/dev/null)"
    # shellcheck disable=SC2086 # a list of process ids
    [[ -z "$workers" ]] || kill -USR1 $workers 2>/dev/null
}
trap forward USR1
trap 'kill -TERM "$launcher" 2>/dev/null' TERM INT

# `wait` comes back early when a signal does
while kill -0 "$launcher" 2>/dev/null; do wait "$launcher"; done
wait "$launcher"
