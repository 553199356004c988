#!/usr/bin/env python3
"""Models and adapters that Pairwise saved, loaded by transformers and peft: `python3 benches/peers/lm_parity.py PAIRWISE`.

For each of the four families and an adapter, Pairwise trains a step, saves, and scores rows; transformers loads the
folder (tokenizer included) and scores the same rows. Prints the largest difference per token and compares greedy
continuations; exits with 1 where a difference is above 2e-5. Needs torch, transformers and peft, and, for the families
other than Pairwise's own, their folders (--models, by default ../shared/data/hf).
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

ROWS = [
    {"prompt": "I bought this", "completion": " camera last winter, and the screen is superb."},
    {"prompt": "We stayed in", "completion": " this hotel for two nights. The rooms were dreadful."},
    {"prompt": "First Citizen:", "completion": " Before we proceed any further, hear me speak."},
    {"prompt": "Once", "completion": " upon a time there was a caf\u00e9 with 3 tables \u2014 and a dog."},
]


def pairwise(program, *arguments):
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"pairwise {' '.join(map(str, arguments))}\n{done.stderr}")
    return done.stdout


def scores(model, tokenizer, row):
    prompt = tokenizer(row["prompt"])["input_ids"]
    whole = tokenizer(row["prompt"] + row["completion"])["input_ids"]
    start = next((i for i, (a, b) in enumerate(zip(prompt, whole)) if a != b), min(len(prompt), len(whole)))
    with torch.no_grad():
        logits = model(torch.tensor([whole])).logits[0].double()
    log_probs = torch.log_softmax(logits, -1)
    return whole[start:], [log_probs[i - 1, whole[i]].item() for i in range(max(start, 1), len(whole))]


def compare(name, program, folder, model, tokenizer, rows):
    out = folder / "scores.jsonl"
    pairwise(program, "lm", "score", "--model", folder, "--data", rows, "--per-token", "--out", out)
    worst = 0.0
    for row, line in zip(ROWS, out.read_text().splitlines()):
        ours = json.loads(line)
        ids, theirs = scores(model, tokenizer, row)
        if ids != ours["ids"]:
            sys.exit(f"{name}: other token ids: {ours['ids']} {ids}")
        worst = max(worst, max(abs(a - b) for a, b in zip(ours["token_logprobs"], theirs)))
    ids = tokenizer(ROWS[0]["prompt"], return_tensors="pt")
    written = model.generate(**ids, max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)
    theirs = tokenizer.decode(written[0], skip_special_tokens=True)
    ours = pairwise(program, "lm", "sample", "--model", folder, "--prompt", ROWS[0]["prompt"], "--temperature", 0,
                    "--max-new-tokens", 12).rstrip("\n")
    # Pairwise ends with EOS, transformers was told not to.
    same = theirs.startswith(ours) or ours == theirs
    print(f"{name:12} largest difference per token {worst:.1e}, greedy text {'equal' if same else 'differs'}")
    return worst < 2e-5 and same


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program", help="the pairwise binary")
    root = Path(__file__).resolve().parent.parent.parent
    parser.add_argument("--models", type=Path, default=root / "../shared/data/hf")
    args = parser.parse_args()
    fine = True
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as temporary:
        temporary = Path(temporary)
        rows = temporary / "rows.jsonl"
        rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        pairwise(args.program, "lm", "pretrain", "--size", "100k", "--texts", 400, "--steps", 10, "--out", temporary / "own")
        bases = {"own": temporary / "own/model"}
        for family in ["llama", "gpt2", "qwen2", "mistral"]:
            if (args.models / family).is_dir():
                bases[family] = args.models / family
            else:
                print(f"{family:12} not compared: {args.models / family} is not there")
        for name, base in bases.items():
            common = ["lm", "sft", "--model", base, "--data", rows, "--steps", 2, "--lr", 1e-3, "--batch-size", 4]
            pairwise(args.program, *common, "--out", temporary / f"{name}-sft")
            folder = temporary / f"{name}-sft/model"
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
            fine &= compare(name, args.program, folder, model, AutoTokenizer.from_pretrained(folder), rows)
            pairwise(args.program, *common, "--lora", 4, "--out", temporary / f"{name}-lora")
            adapter = temporary / f"{name}-lora/model"
            model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
            model = PeftModel.from_pretrained(model, adapter).eval()
            fine &= compare(f"{name} LoRA", args.program, adapter, model, AutoTokenizer.from_pretrained(base), rows)
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
