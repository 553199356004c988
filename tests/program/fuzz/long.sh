#!/usr/bin/env bash
# The long run over damaged files: INPUTS in all, over all readers. usage: tests/program/fuzz/long.sh [INPUTS] [SEED]
set -euo pipefail
cd "$(dirname "$0")/../../.."
PAIRWISE_FUZZ="${1:-100000}" PAIRWISE_FUZZ_SEED="${2:-1}" \
    cargo test --workspace --locked --test program -- --nocapture no_damaged_file_ends_hangs_or_fills_the_program
