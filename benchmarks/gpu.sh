#!/bin/sh
# All checks of one GPU, with limits that add up to 13 minutes; needs alignax[cuda]. The first and
# the third have run on an H100, under other limits; the second and the fourth have not.
# Arguments are peers whose environments are made: sh benchmarks/gpu.sh trl raw
# No test of the suite needs a GPU. Peers: python -m benchmarks environments --platform gpu
cd "$(dirname "$0")/.." || exit
run() { echo "== $*"; timeout "$@" || echo "failed: $?"; }
run 360 python -m benchmarks train --dry --platform gpu --dtype bfloat16 --shapes "dpo 1k 1b" --rounds 1 --against "$@"
run 120 python -m benchmarks sample --dry --platform gpu --dtype bfloat16 --lengths equal --rounds 1
run 120 python -m benchmarks decode_step --platform gpu --dtype bfloat16 --batch 64
run 180 python -m benchmarks.variants
