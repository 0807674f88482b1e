#!/bin/bash
# Caption a folder on a Ray cluster:
#
#     ray up examples/cluster/ray.yaml                     # start the machines
#     ray exec examples/cluster/ray.yaml \
#         'RAY_ADDRESS=auto bash /shared/caption_ray.sh /shared/photos /shared/runs/mine /shared/captions.parquet'
#
# Without RAY_ADDRESS the job runs on a local cluster that ends with it. This script, images, run and output must be
# under the same paths on all machines. Run the same command again to resume.
set -euo pipefail

images=${1:?usage: caption_ray.sh IMAGES MODEL OUT.parquet [flags of seesay caption]}
model=${2:?usage: caption_ray.sh IMAGES MODEL OUT.parquet [flags of seesay caption]}
out=${3:?usage: caption_ray.sh IMAGES MODEL OUT.parquet [flags of seesay caption]}
shift 3

address=()
if [ -n "${RAY_ADDRESS:-}" ]; then
    address=(--ray-address "$RAY_ADDRESS")
fi
exec seesay caption "$images" --model "$model" --out "$out" --engine ray "${address[@]}" "$@"
