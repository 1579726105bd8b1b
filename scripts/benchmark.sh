#!/usr/bin/env bash
# Compare every method on one machine and write a report: bash scripts/benchmark.sh --help
exec python "$(dirname "$0")/benchmark.py" "$@"
