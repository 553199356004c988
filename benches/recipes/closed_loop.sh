#!/bin/sh
# Model-written evaluations from end to end on the embedded world, whose truth is known: a small model learns to write
# statements from rows with their labels, two judges of its size learn to tell the labels apart, and what each keeps of the
# statements is held against the truth. Everything is seeded.
#
#   benches/recipes/closed_loop.sh [FOLDER]         PAIRWISE=target/release/pairwise SIZE=300k COUNT=1500 KEEP=150 SEED=0
set -eu

here=$(dirname "$0")
out=${1:-runs/closed-loop}
pairwise=${PAIRWISE:-target/release/pairwise}
size=${SIZE:-300k}
count=${COUNT:-1500}
keep=${KEEP:-150}
seed=${SEED:-0}
behaviours="$here/pleased.toml"
mkdir -p "$out"

# What is there already is not made again: a run that was stopped is gone on with.
train() {
    stage=$1 name=$2
    shift 2
    if [ -f "$out/$name/config.toml" ]; then
        [ -f "$out/$name/summary.json" ] || "$pairwise" lm resume "$out/$name"
    else
        "$pairwise" lm "$stage" --out "$out/$name" --seed "$seed" "$@"
    fi
}

# Rows of other reviews than those of pre-training.
"$pairwise" lm reviews --rows statements --behaviours "$behaviours" --count 12000 --seed 101 --out "$out/statements.jsonl"
"$pairwise" lm reviews --rows judgements --behaviours "$behaviours" --count 24000 --seed 102 --out "$out/judgements.jsonl"

train pretrain base --size "$size" --texts "${TEXTS:-40000}"
train sft writer --model "$out/base/model" --data "$out/statements.jsonl" --batch-size 8 --lr 1e-3
train sft language-judge --model "$out/base/model" --data "$out/judgements.jsonl" --batch-size 8 --lr 1e-3
train reward preference-judge --model "$out/base/model" --data "$out/judgements.jsonl" --batch-size 8 --lr 1e-3

# At the paper's temperature of 1.4 a model of this size writes no words.
"$pairwise" evals generate --temperature 1 --behaviours "$behaviours" --model "$out/writer/model" --out "$out/statements" \
    --count "$count" --seed "$seed"
for judge in preference-judge language-judge; do
    "$pairwise" evals filter "$out/statements" --judge "$out/$judge" --per-label "$keep" --truth reviews --seed "$seed" \
        --out "$out/by-$judge"
done

# The set measures models: the writer, which has not been asked such questions, and the base.
"$pairwise" evals run --data "$out/by-preference-judge/sets" --model "$out/base/model" "$out/writer/model" --out "$out/run"
