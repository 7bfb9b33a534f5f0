#!/usr/bin/env bash
# Train on the GPUs of one or several machines: dist_train.sh CONFIG GPUS [options of train.py]
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT on each.
# RESTARTS=3: when a process fails, start all again, three times at most, each with --resume.
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG GPUS [options of train.py]" >&2
    exit 2
fi
config=$1 gpus=$2 address="${MASTER_ADDR:-127.0.0.1}" port="${PORT:-29500}"
meeting=(--node_rank="${NODE_RANK:-0}" --master_addr="$address" --master_port="$port")
options=(--launcher pytorch)
if [ -n "${RESTARTS:-}" ]; then
    # The processes have to meet anew each time, and must not find what is left of the time before:
    # https://github.com/pytorch/pytorch/issues/135712
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    meeting=(--max_restarts="$RESTARTS" --rdzv_backend=c10d --rdzv_endpoint="$address:$port")
    options+=(--resume)
fi
exec python -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --nproc_per_node="$gpus" "${meeting[@]}" \
    "$(dirname "$0")/train.py" "$config" "${options[@]}" "${@:3}"
