#!/usr/bin/env python3
"""Holds `pairwise evals run` against plain transformers on the same model and questions, and shows what the rule of
lm-evaluation-harness gives on the same log-probabilities.

    pip install torch transformers datasets
    benches/peers/evals.py --pairwise target/release/pairwise --model DIR --data FILE_OR_FOLDER [--limit 100]

For every question transformers computes the sum of the log-probabilities of each answer's tokens, one sequence at a
time, without padding. What is compared are log P(answer) and the probability of the matching answer among the answers.

The harness (task anthropic_*/persona, `doc_to_text: "{{question}}"`, `output_type: multiple_choice`) differs: it gives
the bare question, takes the likeliest answer only, and of equally likely ones the first in its list, which is the
matching one; so a model that knows nothing can read 100 %, as the last rows show.
"""

import argparse
import json
import math
import pathlib
import subprocess
import sys
import tempfile

import torch
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--pairwise", default="target/release/pairwise")
parser.add_argument("--model", required=True, type=pathlib.Path)
parser.add_argument("--data", required=True, nargs="+", type=pathlib.Path)
parser.add_argument("--limit", type=int, default=100, help="questions of each set; 0 for all")
parser.add_argument("--tolerance", type=float, default=1e-3)
args = parser.parse_args()

FORMS = {"dialogue": "Human: {}\n\nAssistant:", "bare": "{}"}


def common(a, b):
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


@torch.no_grad()
def answers(model, tokenizer, prompt, candidates):
    """log P(answer | prompt) of each answer; prompt and answer are tokenised together."""
    begins = tokenizer(prompt)["input_ids"]
    all_ids = [tokenizer(prompt + candidate)["input_ids"] for candidate in candidates]
    start = min(common(begins, ids) for ids in all_ids)
    over = max(0, max(len(ids) for ids in all_ids) - model.config.max_position_embeddings)
    sums = []
    for ids in all_ids:
        ids = ids[over:]
        log_probs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        sums.append(sum(log_probs[i - 1, ids[i]].item() for i in range(start - over, len(ids))))
    return sums


def among(values):
    largest = max(values)
    weights = [math.exp(value - largest) for value in values]
    return weights[0] / sum(weights)


def mean(values):
    return sum(values) / len(values)


def loads(out):
    """Every output is read by `datasets`, all files of a kind together, with as many rows as there are lines."""
    for config, files in {"items": "items/*/*.jsonl", "pronouns": "pronouns/*/*.jsonl", "results": "results.jsonl"}.items():
        lines = sum(len(file.read_text().splitlines()) for file in pathlib.Path(out).glob(files))
        if lines > 0:
            with tempfile.TemporaryDirectory() as cache:
                rows = load_dataset(out, config, split="train", cache_dir=cache).num_rows
            if rows != lines:
                sys.exit(f"{config}: datasets reads {rows} rows of {lines}")


def compare(name, folder):
    """The largest difference over all sets and forms."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    worst = 0.0
    for form, template in FORMS.items():
        with tempfile.TemporaryDirectory() as out:
            command = [args.pairwise, "evals", "run", "--model", folder, "--data", *args.data, "--form", form]
            command += ["--out", out, "--limit", str(args.limit), "--free", "0", "--no-negation"]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                sys.exit(done.stderr)
            for file in sorted(pathlib.Path(out).glob("items/*/*.jsonl")):
                items = [json.loads(line) for line in file.read_text().splitlines()]
                if not items:
                    continue
                differences, ours, theirs, right, ties = [], [], [], 0, 0
                for item in items:
                    twin = answers(model, tokenizer, template.format(item["question"]), item["answers"])
                    differences += [abs(a - b) for a, b in zip(item["log_probs"], twin)]
                    # Both in the file's order of choices; pairwise reports the mean over both orders.
                    ours.append(among(item["log_probs"]))
                    theirs.append(among(twin))
                    # The harness: the first of the likeliest, and the matching answer stands first.
                    right += twin[0] == max(twin)
                    ties += twin.count(max(twin)) > 1
                change = max(abs(a - b) for a, b in zip(ours, theirs))
                worst = max(worst, change, *differences)
                print(f"{name:<10} {file.stem[:40]:<40} {form:<9} {len(items):>5} {mean(ours):>7.3f} {mean(theirs):>12.3f} "
                      f"{max(differences):>11.1e} {change:>8.1e} {100 * right / len(items):>7.1f} % {ties:>5}")
            loads(out)
    return worst


print(f"{'model':<10} {'set':<40} {'form':<9} {'n':>5} {'P':>7} {'transformers':>12} {'Δ log P':>11} {'Δ P':>8} "
      f"{'harness':>9} {'ties':>5}")
worst = compare("given", args.model)
with tempfile.TemporaryDirectory() as folder:
    # The same model with a head of zeros: all tokens are equally likely, whatever is asked.
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    model.get_output_embeddings().weight.data.zero_()
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(args.model).save_pretrained(folder)
    worst = max(worst, compare("uniform", folder))
print(f"largest difference: {worst:.1e}")
if worst > args.tolerance:
    sys.exit(f"differs by more than {args.tolerance}")
