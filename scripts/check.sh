#!/usr/bin/env bash
# What CI runs: style, format, types, tests. Needs `pip install -r requirements-dev.txt`.
#
#   scripts/check.sh            everything; further words go to pytest
#   scripts/check.sh --fast     under a minute: style, format, types, and the tests that need no model run: core,
#                               the method, prompts, imports, files, packaging (not those marked slow)
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # the tensors are so small that threads only wait for each other
tests=()
if [ "${1:-}" = --fast ]; then
    shift
    tests=(-m "not slow and not network" tests/core tests/method tests/models tests/test_*.py)
fi
ruff check .
ruff format --check .
mypy
exec python -m pytest ${tests[@]+"${tests[@]}"} "$@" # bash before 4.4 calls an empty array unset
