# The part that pretrain.sbatch and finetune.sbatch share; they source it with
# PROGRAM DEFAULT_CONFIG [CONFIG [key=value ...]].
# It runs on the first node: one task a node by srun, and what happens when the time is up.

set -uo pipefail

program="$1" config="${3:-$2}"
shift $(($# > 2 ? 3 : 2))

# All nodes must see this folder; another Python than the checkout's: export VIVO_PYTHON before sbatch.
export VIVO_PYTHON="${VIVO_PYTHON:-.venv/bin/python}"
# The processes meet on the first node, at a port that differs between jobs which share it.
MASTER_ADDR="${MASTER_ADDR:-$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)}"
MASTER_PORT="${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 20000))}"
export MASTER_ADDR MASTER_PORT

time_is_up=0
trap 'time_is_up=1; kill -USR1 "$step" 2>/dev/null' USR1 # srun passes it on to the tasks

# --wait: when the first node is done, the one that writes the checkpoint has so many seconds left
srun --kill-on-bad-exit=0 --wait=90 bash configs/slurm/node.sh "$program" "$config" "$@" &
step=$!
while kill -0 "$step" 2>/dev/null; do wait "$step"; done # `wait` comes back early when a signal does
wait "$step"
status=$?

if ((time_is_up && status)); then # status 0: training was over before the signal came
    echo "stopped before the end of the time (status $status): back into the queue"
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
fi
exit "$status"
