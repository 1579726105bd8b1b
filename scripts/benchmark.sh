#!/usr/bin/env bash
# Compare every method on one machine and write a report: bash scripts/benchmark.sh --help
root="$(cd "$(dirname "$0")/.." && pwd)"
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec python -m hetcache.benchmark "$@"
