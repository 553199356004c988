"""Writes vocab.json, merges.txt and cases.json: what transformers makes of tokens that stand outside tokenizer.json, and
of GPT-2's and Qwen2's slow files.

Run with `pip install transformers==5.24.0`. tokenizer.json beside it is a byte tokenizer with three special tokens.
"""

import json
import pathlib
import shutil
import tempfile

import transformers
from transformers import AutoTokenizer

HERE = pathlib.Path(__file__).parent
TEXT = "<|im_start|>user\nIn 2024 I'LL pay <tool> <|x|> cafe\u0301 \u00e9<|im_end|> <s>a</s>"
PLAIN = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
RULES = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}


def slow_files():
    def alphabet():
        kept = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
        names = {byte: chr(byte) for byte in kept}
        for count, byte in enumerate(byte for byte in range(256) if byte not in kept):
            names[byte] = chr(256 + count)
        return names

    names = alphabet()
    spell = lambda text: [names[byte] for byte in text.encode()]
    pieces = ["20", "24", "2024", " 2024", " I", "'L", "'LL", "'ll", "ay", " p", " pay", "caf", "cafe", "é", " é", "\u0301", " caf", "user", "12", "345", "123", "12345"]
    vocab = {name: i for i, name in enumerate(names.values())}
    merges = []
    for piece in pieces:
        parts = spell(piece)
        while len(parts) > 1:
            pair = (parts[0], parts[1])
            if "".join(pair) not in vocab:
                vocab["".join(pair)] = len(vocab)
                merges.append(" ".join(pair))
            parts = ["".join(pair)] + parts[2:]
    vocab["<|endoftext|>"] = len(vocab)
    (HERE / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=True, indent=0) + "\n")
    (HERE / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")


def cases():
    fast = ["tokenizer.json"]
    slow = ["vocab.json", "merges.txt"]
    add = lambda **more: {**PLAIN, **more}
    token = lambda text, **more: {"content": text, **RULES, **more}
    yield "nothing", fast, {"tokenizer_config.json": PLAIN}
    for field in ["additional_special_tokens", "extra_special_tokens"]:
        yield field, fast, {"tokenizer_config.json": add(**{field: ["<|im_start|>", "<|im_end|>"]})}
    yield "extra before additional", fast, {"tokenizer_config.json": add(extra_special_tokens=["<tool>"], additional_special_tokens=["<|x|>"])}
    yield "empty extra", fast, {"tokenizer_config.json": add(extra_special_tokens=[], additional_special_tokens=["<|x|>"])}
    yield "extra as a dict", fast, {"tokenizer_config.json": add(extra_special_tokens={"image_token": "<tool>", "x_token": "<|x|>"})}
    yield "roles of the model's own", fast, {"tokenizer_config.json": add(image_token="<tool>", mask_token="<|x|>")}
    yield "model_specific_special_tokens", fast, {"tokenizer_config.json": add(model_specific_special_tokens={"tool_token": "<tool>"})}
    decoder = {"300": token("<|im_end|>"), "267": token("<|im_start|>"), "280": token("<tool>", special=False, lstrip=True)}
    yield "added_tokens_decoder", fast, {"tokenizer_config.json": add(added_tokens_decoder=decoder)}
    yield "added_tokens_decoder with other rules", fast, {"tokenizer_config.json": add(added_tokens_decoder={"0": token("<s>", lstrip=True)})}
    yield "decoder and list", fast, {"tokenizer_config.json": add(added_tokens_decoder=decoder, additional_special_tokens=["<|x|>", "<|im_end|>"])}
    special_map = {"additional_special_tokens": ["<|x|>"], "pad_token": "<tool>", "eos_token": token("</s>")}
    yield "special_tokens_map.json", fast, {"tokenizer_config.json": PLAIN, "special_tokens_map.json": special_map}
    yield "map with a list before", fast, {"tokenizer_config.json": add(extra_special_tokens=["<tool>"]), "special_tokens_map.json": {"extra_special_tokens": ["<|x|>", "<tool>"]}}
    yield "map beside a decoder", fast, {"tokenizer_config.json": add(added_tokens_decoder=decoder), "special_tokens_map.json": special_map}
    yield "added_tokens.json", fast, {"tokenizer_config.json": add(additional_special_tokens=["<|im_end|>"]), "added_tokens.json": {"<|im_end|>": 300, "<tool>": 299, "cafe": 290}}
    yield "split_special_tokens", fast, {"tokenizer_config.json": add(split_special_tokens=True)}
    yield "indifferent", fast, {"tokenizer_config.json": add(model_max_length=3, padding_side="left", truncation_side="left", clean_up_tokenization_spaces=True, add_prefix_space=True, legacy=False, max_length=3, add_bos_token=True, add_eos_token=True)}
    yield "no class", fast, {"tokenizer_config.json": {"additional_special_tokens": ["<tool>"], "eos_token": "</s>"}}
    for name in ["GPT2Tokenizer", "GPT2TokenizerFast", "Qwen2Tokenizer", "Qwen2TokenizerFast"]:
        config = {"tokenizer_class": name}
        yield name, slow, {"tokenizer_config.json": config}
        yield name + " with tokens", slow, {"tokenizer_config.json": {**config, "additional_special_tokens": ["<|im_start|>", "<|im_end|>"], "eos_token": "<|im_end|>"}}
        yield name + " with a prefix", slow, {"tokenizer_config.json": {**config, "add_prefix_space": True, "add_bos_token": True, "bos_token": "<s>"}}
    for model in ["gpt2", "qwen2", "qwen3"]:
        yield "no class, " + model, slow, {"tokenizer_config.json": {}, "config.json": {"model_type": model}}


def main():
    slow_files()
    out = []
    for name, copied, files in cases():
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            for file in copied:
                shutil.copy(HERE / file, folder / file)
            for file, content in files.items():
                (folder / file).write_text(json.dumps(content))
            if "config.json" not in files:
                (folder / "config.json").write_text("{}")
            tokenizer = AutoTokenizer.from_pretrained(str(folder))
            roles = {role: tokenizer.convert_tokens_to_ids(text) for role, text in tokenizer.special_tokens_map.items()}
            case = {
                "name": name,
                "copied": copied,
                "files": files,
                "ids": tokenizer(TEXT)["input_ids"],
                "ids_without": tokenizer(TEXT, add_special_tokens=False)["input_ids"],
                "length": len(tokenizer),
                "roles": roles,
                "shown": tokenizer.decode(tokenizer(TEXT)["input_ids"], skip_special_tokens=True),
            }
            out.append(case)
    written = {"transformers": transformers.__version__, "text": TEXT, "cases": out}
    (HERE / "cases.json").write_text(json.dumps(written, ensure_ascii=True, indent=1) + "\n")
    for case in out:
        print(case["name"], len(case["ids"]), case["ids"][:6], case["length"], case["roles"])


main()
