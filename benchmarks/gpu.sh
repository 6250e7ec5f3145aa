#!/bin/sh
# All checks of one GPU, with limits that add up to 19 minutes; needs alignax[cuda]. The first and
# the last have run on an H100, under other limits; the second has not, the third in other words.
# Arguments are peers whose environments are made: sh benchmarks/gpu.sh trl raw
# No test of the suite needs a GPU. Peers: python -m benchmarks environments --platform gpu
cd "$(dirname "$0")/.." || exit
run() { echo "== $*"; timeout "$@" || echo "failed: $?"; }
run 360 python -m benchmarks train --dry --platform gpu --dtype bfloat16 --shapes "dpo 1k 1b" --rounds 1 --against "$@"
run 120 python -m benchmarks sample --dry --platform gpu --dtype bfloat16 --lengths equal --rounds 1
for model in 135m 1b 3b; do
  run 120 python -m benchmarks decode_step --platform gpu --dtype bfloat16 --batch 64 --model $model
done
run 300 python -m benchmarks.variants
