"""Merges by Pairwise beside mergekit's, tensor by tensor; and the time and memory of merging two large checkpoints.

    python3 -m venv venv && venv/bin/pip install torch transformers mergekit==0.1.5
    venv/bin/python benches/peers/merge.py target/release/pairwise --models ../shared/data/hf
    venv/bin/python benches/peers/merge.py target/release/pairwise --large 1.0

`--models` is a folder with `llama`, `llama_pertA` and `llama_pertB`: a small Llama and two perturbed copies. `--large`
makes two checkpoints of that many GB and merges them: peak resident memory, and bytes a second beside those of `cp`.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import torch
from safetensors.torch import load_file, save_file

# Method, what `lm merge` is given, and mergekit's configuration: models are numbered, 0 is the base.
CASES = [
    ("linear", [1, 2], ["--weights", "0.3", "0.7"], {"merge_method": "linear", "weights": [0.3, 0.7]}),
    ("linear, weights of another sum", [1, 2], ["--weights", "1,3"], {"merge_method": "linear", "weights": [1, 3]}),
    ("slerp", [0, 1], ["--method", "slerp", "--weights", "0.7", "0.3"], {"merge_method": "slerp", "t": 0.3}),
    (
        "task arithmetic",
        [1, 2],
        ["--method", "task-arithmetic", "--weights", "0.3", "0.7"],
        {"merge_method": "task_arithmetic", "weights": [0.3, 0.7], "base": True},
    ),
    (
        "task arithmetic, lambda 0.5",
        [1, 2],
        ["--method", "task-arithmetic", "--weights", "1", "1", "--lambda", "0.5"],
        {"merge_method": "task_arithmetic", "weights": [1, 1], "lambda": 0.5, "base": True},
    ),
    (
        "TIES",
        [1, 2],
        ["--method", "ties", "--weights", "1", "1", "--density", "0.5"],
        {"merge_method": "ties", "weights": [1, 1], "density": 0.5, "base": True},
    ),
    (
        "TIES, weighted",
        [1, 2],
        ["--method", "ties", "--weights", "0.3", "0.7", "--density", "0.2"],
        {"merge_method": "ties", "weights": [0.3, 0.7], "density": 0.2, "base": True},
    ),
]


def mergekit(case, folders, models, out):
    """The same merge by mergekit, with its own command."""
    config = {"merge_method": case["merge_method"], "dtype": "float32", "parameters": {}}
    if "base" in case or case["merge_method"] == "slerp":
        config["base_model"] = str(folders[0])
    entries = []
    for i, model in enumerate(models):
        parameters = {}
        if "weights" in case:
            parameters["weight"] = case["weights"][i]
        if "density" in case:
            parameters["density"] = case["density"]
        entries.append({"model": str(folders[model]), "parameters": parameters})
    config["models"] = entries
    for name in ("t", "lambda"):
        if name in case:
            config["parameters"][name] = case[name]
    path = out.with_suffix(".yml")
    path.write_text(json.dumps(config))  # JSON is YAML
    code = "import sys; from mergekit.scripts.run_yaml import main; sys.argv[0] = 'mergekit-yaml'; main()"
    command = [sys.executable, "-c", code, str(path), str(out), "--no-copy-tokenizer", "--allow-crimes"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def tensors(folder):
    """All tensors of a checkpoint, in float64."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        found.update({name: tensor.double() for name, tensor in load_file(file).items()})
    return found


def compare(pairwise, root):
    """Every case by both programs."""
    folders = [root / name for name in ("llama", "llama_pertA", "llama_pertB")]
    worst = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        for number, (name, models, flags, case) in enumerate(CASES):
            ours, theirs = scratch / f"ours-{number}", scratch / f"theirs-{number}"
            command = [pairwise, "lm", "merge", *[str(folders[model]) for model in models], "--out", str(ours), *flags]
            if "base" in case:
                command += ["--base", str(folders[0])]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            mergekit(case, folders, models, theirs)
            found, expected = tensors(ours), tensors(theirs)
            # mergekit writes a tied output layer, too.
            shared = [tensor for tensor in expected if tensor in found]
            assert set(found) == set(shared), sorted(set(found) ^ set(shared))
            distance = max(float((found[t] - expected[t]).abs().max() / expected[t].abs().max()) for t in shared)
            disagreeing = sum(int(((found[t] - expected[t]).abs() > 1e-6 * expected[t].abs().max()).sum()) for t in shared)
            entries = sum(expected[t].numel() for t in shared)
            print(f"{name:<34} largest difference {distance:.1e} of a tensor's largest value; "
                  f"{disagreeing} of {entries} entries differ by more than 1e-6", flush=True)
            worst = max(worst, distance)
    return worst


def checkpoint(folder, seed, gigabytes, shards=4):
    """A made-up Llama of this size in float32, in several files; models of all seeds are close to one."""
    hidden, layers, vocabulary = 1024, max(1, round((gigabytes * 2.5e8 - 32000 * 1024) / (12.6e6))), 32000
    folder.mkdir()
    inner = 2816
    shapes = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        for name, shape in [("self_attn.q_proj", (hidden, hidden)), ("self_attn.k_proj", (hidden, hidden)),
                            ("self_attn.v_proj", (hidden, hidden)), ("self_attn.o_proj", (hidden, hidden)),
                            ("mlp.gate_proj", (inner, hidden)), ("mlp.up_proj", (inner, hidden)),
                            ("mlp.down_proj", (hidden, inner))]:
            shapes[f"{prefix}{name}.weight"] = shape
        shapes[f"{prefix}input_layernorm.weight"] = (hidden,)
        shapes[f"{prefix}post_attention_layernorm.weight"] = (hidden,)
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": hidden,
              "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": 16,
              "vocab_size": vocabulary, "tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    names, index, total = list(shapes), {}, 0
    for shard in range(shards):
        own = names[shard::shards]
        file, content = f"model-{shard + 1:05}-of-{shards:05}.safetensors", {}
        for name in own:
            common = torch.Generator().manual_seed(hash_of(name))
            noise = torch.Generator().manual_seed(hash_of(name) + seed)
            content[name] = 0.02 * torch.randn(shapes[name], generator=common)
            content[name] += 0.002 * torch.randn(shapes[name], generator=noise)
            index[name] = file
            total += content[name].numel() * 4
        save_file(content, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": index}))
    return total


def hash_of(name):
    """The same number for a name in every process."""
    return sum((i + 1) * byte for i, byte in enumerate(name.encode()))


def peak(command):
    """Seconds, and the most resident memory of a command, in bytes."""
    began = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    most = 0
    # What wait4 reports counts this process's own memory, from before the command took its place.
    while child.poll() is None:
        try:
            status = pathlib.Path(f"/proc/{child.pid}/status").read_text()
        except OSError:
            continue
        for line in status.splitlines():
            if line.startswith("VmHWM:"):
                most = max(most, int(line.split()[1]) * 1024)
        time.sleep(0.02)
    assert child.returncode == 0, command
    return time.monotonic() - began, most


def large(pairwise, gigabytes, where):
    """Two large checkpoints merged by every method, beside copying them."""
    scratch = pathlib.Path(tempfile.mkdtemp(dir=where))
    try:
        folders = [scratch / name for name in ("a", "b", "base")]
        size = [checkpoint(folder, seed, gigabytes) for seed, folder in enumerate(folders)][0]
        print(f"two checkpoints of {size / 1e9:.2f} GB and their base", flush=True)
        # Pairwise writes to the disk before it says that it is done; `cp` alone writes to memory.
        for name, after in (("cp of one", "true"), ("cp, to the disk", f"sync {scratch}/copy/*")):
            seconds, _ = peak(["sh", "-c", f"cp -r {folders[0]} {scratch}/copy && {after}"])
            print(f"{name:<18} {seconds:6.1f} s, {2 * size / 1e9 / seconds:5.2f} GB/s read and written", flush=True)
            shutil.rmtree(scratch / "copy")
        for method in ("linear", "slerp", "task-arithmetic", "ties", "dare"):
            out = scratch / f"out-{method}"
            command = [pairwise, "lm", "merge", str(folders[0]), str(folders[1]), "--method", method, "--weights", "0.5", "0.5",
                       "--out", str(out)]
            inputs = 2
            if method not in ("linear", "slerp"):
                command += ["--base", str(folders[2])]
                inputs = 3
            seconds, memory = peak(command)
            print(f"{method:<18} {seconds:6.1f} s, {(inputs + 1) * size / 1e9 / seconds:5.2f} GB/s read and written, "
                  f"peak {memory / 1e9:.2f} GB resident", flush=True)
            shutil.rmtree(out)
    finally:
        shutil.rmtree(scratch)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairwise")
    parser.add_argument("--models", type=pathlib.Path)
    parser.add_argument("--large", type=float, metavar="GB")
    parser.add_argument("--scratch", help="where large checkpoints are made")
    arguments = parser.parse_args()
    if arguments.models:
        worst = compare(arguments.pairwise, arguments.models)
        print(f"largest difference of all: {worst:.1e}")
        sys.exit(worst > 1e-5)
    if arguments.large:
        large(arguments.pairwise, arguments.large, arguments.scratch)


if __name__ == "__main__":
    main()
