#!/usr/bin/env bash
# What CI runs: style, types, tests. Needs `pip install -r requirements-dev.txt`.
set -euo pipefail
cd "$(dirname "$0")/.."
ruff check .
mypy
exec python -m pytest "$@"
