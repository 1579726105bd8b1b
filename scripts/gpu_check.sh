#!/usr/bin/env bash
# The whole check on a GPU machine, with no hub: parity, step costs and memory at true dimensions, then two methods
# end to end with random weights and a replayed plan; with two GPUs or more, one video on two. Writes into
# docs/benchmarks/ (or the folder given).
set -euo pipefail
cd "$(dirname "$0")/.."
folder="${1:-docs/benchmarks}/$(date +%F)-gpu"
mkdir -p "$folder"
python scripts/gpu_check.py --output "$folder/steps.json"
bash scripts/benchmark.sh --model wan2.1-vace-1.3b --random-weights --modes baseline hetcache --steps 10 \
    --repeats 1 --output "$folder/end-to-end"
cards="$(nvidia-smi -L 2>/dev/null | wc -l)"
if [ "$cards" -ge 2 ]; then
    for kind in cfg sp; do
        torchrun --standalone --nproc-per-node 2 -m scripts.measure.gpu_ranks --kind "$kind" \
            --output "$folder/ranks-$kind.json"
    done
else
    echo "one GPU: the part for two (scripts/measure/gpu_ranks.py) is left out"
fi
