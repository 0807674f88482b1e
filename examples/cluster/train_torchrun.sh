#!/bin/bash
# Train in several processes on one or more machines with torchrun:
#
#     examples/cluster/train_torchrun.sh data/mine runs/mine --preset attention-gru
#
# On several machines run the same command on each, with NODES set to their number and ENDPOINT to HOST:PORT of one of
# them. PROCESSES is the number of processes per machine, one per GPU. The data, the features and the run must be on a
# file system that all machines share.
set -euo pipefail

data=${1:?usage: train_torchrun.sh DATA RUN [flags of seesay train]}
run=${2:?usage: train_torchrun.sh DATA RUN [flags of seesay train]}
shift 2

nodes=${NODES:-1}
if [ "$nodes" -gt 1 ]; then
    meeting=(--nnodes "$nodes" --rdzv-backend c10d --rdzv-endpoint "${ENDPOINT:?set ENDPOINT to HOST:PORT}")
else
    meeting=(--standalone)
fi
exec torchrun "${meeting[@]}" --nproc-per-node "${PROCESSES:-2}" -m seesay train "$data" --out "$run" "$@"
