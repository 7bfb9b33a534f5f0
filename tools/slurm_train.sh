#!/usr/bin/env bash
# Train under Slurm: slurm_train.sh PARTITION JOB_NAME CONFIG [options of train.py]
# GPUS (8), GPUS_PER_NODE (8), CPUS_PER_TASK (8) and SRUN_ARGS are read from the environment.
set -euo pipefail
if [ $# -lt 3 ]; then
    echo "usage: $0 PARTITION JOB_NAME CONFIG [options of train.py]" >&2
    exit 2
fi
partition=$1 job_name=$2 config=$3
gpus=${GPUS:-8} gpus_per_node=${GPUS_PER_NODE:-8}
[ "$gpus" -lt "$gpus_per_node" ] && gpus_per_node=$gpus
# shellcheck disable=SC2086
exec srun --partition="$partition" --job-name="$job_name" \
    --ntasks="$gpus" --ntasks-per-node="$gpus_per_node" --gres=gpu:"$gpus_per_node" \
    --cpus-per-task="${CPUS_PER_TASK:-8}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    python -u "$(dirname "$0")/train.py" "$config" --launcher slurm "${@:4}"
