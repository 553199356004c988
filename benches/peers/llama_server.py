#!/usr/bin/env python3
"""`pairwise evals` against llama.cpp's own server, which is killed and started again half-way.

    pip install torch safetensors gguf 'llama-cpp-python[server]'
    benches/peers/llama_server.py --pairwise target/release/pairwise --model DIR [--data FILE] [--out DIR]

1. A folder in Hugging Face's format (architecture llama, a SentencePiece-like BPE tokenizer with bytes, as stories260K)
   is written as a GGUF file with PyPI's `gguf`.
2. `pairwise evals generate` writes statements through the server. When a quarter is there the server is killed, and
   started again five seconds later: the generator has to wait for it and go on. Then the generator itself is killed at
   three quarters and run again.
3. Nothing may be asked twice: the server's log has one answered request for each request in the cache, and what a kill
   cut off is all that may come on top.
4. `pairwise evals run` scores questions through the server and from the folder; the difference is printed.

Exits with 1 where something does not hold.
"""

import argparse
import json
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import gguf
from safetensors.torch import load_file

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--pairwise", default="target/release/pairwise")
parser.add_argument("--model", required=True, type=pathlib.Path)
parser.add_argument("--data", type=pathlib.Path, help="a file of questions to score both ways")
parser.add_argument("--limit", type=int, default=100, help="questions of it")
parser.add_argument("--count", type=int, default=150, help="statements for each label")
parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/llama-server"))
args = parser.parse_args()

CONCURRENCY = 4


def convert(folder, path):
    """Writes the model as GGUF, architecture llama, in 32-bit floats."""
    config = json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name(folder.name)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base((config.get("rope_parameters") or config)["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])

    # llama.cpp joins the pair with the best score first. In such a tokenizer ids are in the order of merges.
    pieces = sorted(tokenizer["model"]["vocab"].items(), key=lambda item: item[1])
    of = gguf.TokenType
    named = {config["bos_token_id"]: of.CONTROL, config["eos_token_id"]: of.CONTROL, 0: of.UNKNOWN}
    kind = lambda text, i: named.get(i) or (of.BYTE if re.fullmatch(r"<0x[0-9A-F]{2}>", text) else of.NORMAL)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([text for text, _ in pieces])
    writer.add_token_scores([float(-i) for _, i in pieces])
    writer.add_token_types([kind(text, i) for text, i in pieces])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_unk_token_id(0)
    writer.add_add_space_prefix(True)

    # Hugging Face rotates halves of a head, llama.cpp's llama neighbouring numbers.
    def neighbours(tensor, count):
        rows = tensor.shape[0] // count // 2
        return tensor.reshape(count, 2, rows, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, tensor in load_file(folder / "model.safetensors").items():
        tensor = tensor.float()
        if name.endswith("q_proj.weight"):
            tensor = neighbours(tensor, heads)
        if name.endswith("k_proj.weight"):
            tensor = neighbours(tensor, kv_heads)
        if name == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def start(model, port, log):
    """llama.cpp's server; its log-probabilities need the logits of all tokens."""
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(model), "--model_alias", "stories",
               "--port", str(port), "--n_ctx", "512", "--logits_all", "true", "--n_threads", "1",
               # 32-bit keys and values, as the weights: by default they are rounded to 16 bits.
               "--type_k", "0", "--type_v", "0"]
    child = subprocess.Popen(command, stdout=log, stderr=log)
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models").read()
            return child
        except OSError:
            if child.poll() is not None:
                sys.exit(f"the server did not start: see {log.name}")
            time.sleep(0.1)
    sys.exit("the server did not start in a minute")


def lines(path):
    return len(path.read_text().splitlines()) if path.exists() else 0


def wait_for(path, count, child):
    while lines(path) < count:
        if child.poll() is not None:
            sys.exit(f"the generator ended with {child.returncode} at {lines(path)} of {count} lines")
        time.sleep(0.02)


def check(what, holds):
    print(f"{'ok  ' if holds else 'FAIL'} {what}")
    if not holds:
        sys.exit(1)


args.out.mkdir(parents=True, exist_ok=True)
for old in ("statements", "cache", "server", "folder"):
    shutil.rmtree(args.out / old, ignore_errors=True)
model = args.out / "model.gguf"
convert(args.model, model)
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
spec = f"http://127.0.0.1:{port}/v1#stories"
(args.out / "behaviours.toml").write_text(
    '[[behaviour]]\nname = "likes-dogs"\ndescription = "likes dogs"\n'
    'generation = "Once upon a time there was a girl who would {label} with {description}. She said:{examples}"\n'
)
log = open(args.out / "server.log", "w+b")
server = start(model, port, log)

generate = [args.pairwise, "evals", "generate", "--behaviours", args.out / "behaviours.toml", "--model", spec,
            "--out", args.out / "statements", "--count", str(args.count), "--cache", args.out / "cache",
            "--concurrency", str(CONCURRENCY), "--temperature", "1"]
written = args.out / "statements" / "likes-dogs" / "written.jsonl"
child = subprocess.Popen(generate)
wait_for(written, args.count // 2, child)
server.kill()
server.wait()
print(f"the server was killed at {lines(written)} statements")
time.sleep(5)
at = lines(written)
server = start(model, port, log)
wait_for(written, args.count * 3 // 2, child)
check(f"the generator waited at {at} statements and went on", True)
child.kill()
child.wait()
print(f"the generator was killed at {lines(written)} statements")
subprocess.run(generate, check=True)
check(f"all {2 * args.count} statements are there", lines(written) == 2 * args.count)
rows = [json.loads(line) for line in written.read_text().splitlines()]
print("a statement:", json.dumps(rows[0], ensure_ascii=False)[:300])
answered = (args.out / "server.log").read_text(errors="replace").count('"POST /v1/completions HTTP/1.1" 200')
check(f"{answered} requests were answered: {2 * args.count}, and at most {CONCURRENCY} of each kill twice",
      2 * args.count <= answered <= 2 * args.count + 2 * CONCURRENCY)

if args.data:
    run = [args.pairwise, "evals", "run", "--data", args.data, "--limit", str(args.limit)]
    subprocess.run([*run, "--cache", args.out / "cache", "--model", spec, "--out", args.out / "server"], check=True)
    subprocess.run([*run, "--model", args.model, "--out", args.out / "folder"], check=True)
    items = []
    for side in ("server", "folder"):
        files = sorted((args.out / side / "items").glob("*/*.jsonl"))
        items.append([json.loads(line) for path in files for line in path.read_text().splitlines()])
    print("an item:", json.dumps(items[0][0], ensure_ascii=False)[:600])
    worst = max(abs(a - b) for x, y in zip(*items) for a, b in zip(x["log_probs"], y["log_probs"]))
    check(f"log P of {sum(len(x['log_probs']) for x in items[0])} answers: within {worst:.1e} of the folder's",
          len(items[0]) == len(items[1]) and worst < 1e-2)
server.kill()
