#!/usr/bin/env bash
# One call of training on a GPU machine that keeps nothing: it starts from what lies in STATE and leaves its own in OUT.
#   bash scripts/train/gpu.sh STAGE CALL_MINUTES STAGE_MINUTES PACK STATE OUT [further flags of the stage]
# STAGE is ae or dit. A stage of STAGE_MINUTES takes several calls of CALL_MINUTES: at most 7 where one command may run
# for 10, because decoding the data, compiling and writing come on top. What came into OUT is put into STATE for the
# next call. On an H100: `ae 7 7`, `dit 7 14` and `dit 7 14`: 21 minutes of training in three calls.
# PACK holds clips/ (at most 50 MiB, made by `python -m scripts.train pack`) and lpips-alex.safetensors (brought by
# `python -m hetcache.metrics lpips`), and may hold watch/ (from `watch-clips`) and wheels/ (unpacked packages that the
# machine lacks: diffsynth and what it imports). OUT gets at most eight files of at most 15 MiB: weights in float16 and
# the log. GPU_DEVICE=cpu and --small try it out anywhere.
set -euo pipefail
cd "$(dirname "$0")/../.."
stage=$1 call_minutes=$2 stage_minutes=$3
pack=$(realpath "$4") state=$(realpath -m "$5") out=$(realpath -m "$6")
shift 6
device=${GPU_DEVICE:-cuda}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out" "$work/run"
[[ ! -d $pack/wheels ]] || export PYTHONPATH="$pack/wheels${PYTHONPATH:+:$PYTHONPATH}"
toy=()
for flag in "$@"; do [[ $flag != --small ]] || toy=(--small); done
train() { python3 -m scripts.train "$@" "${toy[@]}"; }
has() { compgen -G "$state/$1.[0-9]" > /dev/null; }

train prepare --sources "$pack/clips" --data "$work/data"
for name in ae ae-frozen dit; do
  if has "$name"; then train join --stage "$name" --to "$state" --out "$work/run"; fi
done
for log in ae dit; do
  [[ ! -f $state/$log.jsonl ]] || cp "$state/$log.jsonl" "$work/run/"
done
if [[ $stage == dit && ! -f $work/run/ae-frozen.pt ]]; then
  train freeze --data "$work/data" --out "$work/run"
  train split --stage ae-frozen --out "$work/run" --to "$out"
fi

flags=(--data "$work/data" --out "$work/run" --minutes "$stage_minutes" --session-minutes "$call_minutes")
flags+=(--device "$device" --save-minutes 2)
[[ ! -d $pack/watch ]] || flags+=(--watch "$pack/watch")
[[ ! -f $pack/lpips-alex.safetensors ]] || flags+=(--lpips-file "$pack/lpips-alex.safetensors")
[[ $device != cuda ]] || flags+=(--batch 8 --workers 14)
# The denoiser's block is one graph for all shapes; the autoencoder's convolutions would be compiled shape by shape.
[[ $device != cuda || $stage != dit ]] || flags+=(--compile)
# `timeout` is the belt to the braces of --session-minutes: what was saved last still leaves the machine.
limit_s=$(python3 -c "print(round(60 * $call_minutes + 90))")
timeout --signal=INT "$limit_s" python3 -m scripts.train "$stage" "${flags[@]}" "$@" ||
  echo "the stage ended with status $?: its last checkpoint is kept" >&2
train split --stage "$stage" --out "$work/run" --to "$out"
cp "$work/run/$stage.jsonl" "$out/"
ls -l "$out"
