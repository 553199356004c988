#!/usr/bin/env python3
"""Pairwise's language-model training and sampling beside TRL and transformers, on one core:
`python3 benches/peers/lm.py PAIRWISE --python PYTHON` with a Python that has torch, transformers and trl.

Both sides get the same models (made here, random weights after a few steps), the same rows, batches and optimiser. A
figure is the ratio of medians per CPU second of one core; spreads are the smallest and the largest round.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
              "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
SIZES = {
    "0.9M": dict(hidden=128, layers=4, heads=8, vocabulary=1024),
    "15M": dict(hidden=384, layers=8, heads=8, vocabulary=1024),
}


def run(command):
    """The JSON object that a command prints last, and with it the most memory that it had."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(["taskset", "-c", "0", *map(str, command)], stdout=output, stderr=errors,
                                   env={**os.environ, **ONE_THREAD})
        # Not RUSAGE_CHILDREN: that is the largest of all children so far, the peer's among them.
        _, status, usage = os.wait4(process.pid, 0)
        output.seek(0)
        errors.seek(0)
        if status:
            sys.exit(f"{' '.join(map(str, command))}\n{errors.read()[-3000:]}")
        return {**json.loads(output.read().strip().splitlines()[-1]), "peak_mib": usage.ru_maxrss / 1024}


def make_model(program, folder, size, parameters):
    sizes = [f"--set=pretrain.{name}={value}" for name, value in size.items()]
    made = run([program, "lm", "pretrain", "--texts", 3000, "--steps", 2, *sizes, "--out", folder, "--json"])
    if not 0.9 * parameters < made["trained_parameters"] < 1.1 * parameters:
        sys.exit(f"the model has {made['trained_parameters']} parameters instead of {parameters:.0f}")
    return folder / "model"


def make_rows(program, path, count):
    """Pairs of one prompt with its own completion and another review's."""
    texts = path.with_suffix(".texts")
    subprocess.run([program, "lm", "reviews", "--count", str(2 * count), "--prompt-words", "6", "--out", texts], check=True)
    all_rows = [json.loads(line) for line in texts.read_text().splitlines()]
    with path.open("w") as file:
        for own, other in zip(all_rows[::2], all_rows[1::2]):
            row = {"prompt": own["prompt"], "chosen": own["completion"], "rejected": other["completion"]}
            file.write(json.dumps(row) + "\n")


def ours_train(program, task, model, data, batch, folder):
    rows = data
    if task == "sft":
        rows = folder / "sft.jsonl"
        lines = [json.loads(line) for line in data.read_text().splitlines()]
        rows.write_text("".join(json.dumps({"prompt": r["prompt"], "completion": r["chosen"]}) + "\n" for r in lines))
    out = Path(tempfile.mkdtemp(dir=folder)) / "run"
    found = run([program, "lm", task, "--model", model, "--data", rows, "--batch-size", batch, "--lr", 1e-4, "--threads", 1,
                 "--set", "train.optimizer.schedule=constant", "--set", "eval_share=0.0", "--out", out, "--json"])
    return {"cpu_seconds": found["cpu_seconds"], "peak_mib": found["peak_mib"]}


def ours_sample(program, model, prompt, batch, tokens, folder, more):
    command = [program, "lm", "sample", "--model", model, "--prompt", prompt, "--count", batch, "--threads", 1, "--ignore-eos",
               "--out", folder / "samples.jsonl", "--json", *more, "--max-new-tokens"]
    # What it takes to start and to load is in both, and not in the difference.
    short, long = run([*command, 1]), run([*command, tokens + 1])
    return {"cpu_seconds": long["cpu_seconds"] - short["cpu_seconds"], "peak_mib": long["peak_mib"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    program = str(Path(args.program).resolve())
    with tempfile.TemporaryDirectory() as temporary:
        temporary = Path(temporary)
        print(f"{'task':40} {'Pairwise':>12} {'peer':>12} {'ratio':>7}   spread")
        for name, size in SIZES.items():
            model = make_model(program, temporary / name, size, 1e6 * float(name[:-1]))
            data = temporary / f"{name}.jsonl"
            make_rows(program, data, 256 if name == "0.9M" else 48)
            prompt = json.loads(data.read_text().splitlines()[0])["prompt"]
            # A larger model that writes one text is as fast as its weights are read; rounded ones are fewer bytes, and other
            # numbers than the peer's.
            tasks = [("sft", 16, 0, []), ("dpo", 16, 0, []), ("sample", 1, 150, [])]
            tasks += [("sample", 64, 100, [])] if name == "0.9M" else [("sample", 1, 150, ["--quantize"])]
            for task, batch, tokens, more in tasks:
                if args.only and args.only not in f"{task} {name} {batch}":
                    continue
                ours, theirs, peaks = [], [], [0, 0]
                for _ in range(args.rounds):
                    if task == "sample":
                        one = ours_sample(program, model, prompt, batch, tokens, temporary, more)
                    else:
                        one = ours_train(program, task, model, data, batch, temporary)
                    other = run([args.python, HERE / "trl_lm.py", task, "--model", model, "--data", data, "--batch", batch,
                                 "--tokens", tokens, "--scratch", temporary / "scratch"])
                    count = other["count"]
                    ours.append(count / one["cpu_seconds"])
                    theirs.append(count / other["cpu_seconds"])
                    peaks = [max(peaks[0], one["peak_mib"]), max(peaks[1], other["peak_mib"])]
                ratios = sorted(a / b for a, b in zip(ours, theirs))
                unit = "tokens/s" if task == "sample" else "rows/s"
                label = f"{task} {name}{', 8 bits' if more else ''}, batch {batch}, {unit}"
                print(f"{label:40} {statistics.median(ours):12.1f} {statistics.median(theirs):12.1f} "
                      f"{statistics.median(ours) / statistics.median(theirs):7.2f}   {ratios[0]:.2f} to {ratios[-1]:.2f}"
                      + f"   peak {peaks[0]:.0f} and {peaks[1]:.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
