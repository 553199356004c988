"""Makes the models and adapters beside this file, and what transformers and PEFT compute with them.

pip install torch transformers==5.24.0 peft==0.21.2; python make.py
expected.json: log-probabilities, nats, of every token of `ids` after the first, by transformers in 32 bits on the CPU.
"""

import copy
import json
import shutil
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen2Config

HERE = Path(__file__).parent
torch.manual_seed(1)
torch.set_num_threads(1)
SIZES = dict(vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64, bos_token_id=0, eos_token_id=1,
             initializer_range=0.3)  # fmt: skip
BASES = {
    "llama": LlamaConfig(**SIZES),
    "tied": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**SIZES),
    "gpt2": GPT2Config(vocab_size=40, n_embd=16, n_inner=24, n_layer=2, n_head=4, n_positions=64,
                       bos_token_id=0, eos_token_id=1, initializer_range=0.3),
}  # fmt: skip
IDS = [[0] + torch.randint(2, 40, (n,)).tolist() for n in (50, 7)]
LONG = [[0] + torch.randint(2, 40, (99,)).tolist()]


def log_probs(model, all_ids):
    model.eval()
    rows = []
    with torch.no_grad():
        for ids in all_ids:
            ids = torch.tensor([ids])
            logits = model(input_ids=ids).logits[0, :-1].double()
            rows.append(torch.log_softmax(logits, -1).gather(1, ids[0, 1:, None])[:, 0].tolist())
    return [[round(value, 7) for value in row] for row in rows]


def read(base):
    return AutoModelForCausalLM.from_pretrained(HERE / base, dtype=torch.float32)


expected = {"ids": IDS, "long": LONG, "adapters": {}, "starts": {}, "merged": {}, "configs": []}
for name, config in BASES.items():
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # biases and norms that do something
        for key, value in model.named_parameters():
            if key.endswith("bias") or "norm" in key or "ln_" in key:
                value.add_(0.2 * torch.randn_like(value))
    shutil.rmtree(HERE / name, ignore_errors=True)
    model.save_pretrained(HERE / name)
    expected["adapters"][name] = log_probs(read(name), IDS)


def adapter(name, base, train=0.15, **settings):
    """An adapter whose trained tensors were moved from where they began."""
    settings = dict(r=3, lora_alpha=7, task_type="CAUSAL_LM") | settings
    model = get_peft_model(read(base), LoraConfig(**settings))
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.add_(train * torch.randn_like(value))
    shutil.rmtree(HERE / name, ignore_errors=True)
    model.save_pretrained(HERE / name)
    (HERE / name / "README.md").unlink()
    file = HERE / name / "adapter_config.json"
    config = json.loads(file.read_text()) | {"base_model_name_or_path": f"../{base}"}
    config["target_modules"] = sorted(config["target_modules"]) if isinstance(config["target_modules"], list) else config["target_modules"]  # fmt: skip
    file.write_text(json.dumps(config, indent=1) + "\n")
    expected["adapters"][name] = log_probs(PeftModel.from_pretrained(read(base), HERE / name), IDS)


QV = ["q_proj", "v_proj"]
adapter("plain", "llama", target_modules=QV)
adapter("pissa", "llama", target_modules=["q_proj", "down_proj", "v_proj"], init_lora_weights="pissa", use_rslora=True)
adapter("olora", "llama", target_modules=QV, init_lora_weights="olora", rank_pattern={"k_proj": 2, "v_proj": 2})
adapter("dora", "llama", target_modules="all-linear", use_dora=True)
adapter("dora-pissa", "llama", target_modules=QV, use_dora=True, init_lora_weights="pissa")
adapter("patterns", "llama", target_modules=QV + ["up_proj"], rank_pattern={"up_proj": 5, "layers.1.self_attn.q_proj": 2},
        alpha_pattern={"layers.0.self_attn.*": 3, "up_proj": 1.5})  # fmt: skip
adapter("layers", "llama", target_modules=QV, layers_to_transform=[1])
adapter("regex", "llama", target_modules=r".*\.0\.self_attn\.[qo]_proj", use_rslora=True)
adapter("saved", "llama", target_modules=QV, modules_to_save=["lm_head", "norm"])
adapter("saved-head", "tied", target_modules=QV, modules_to_save=["lm_head"])
adapter("saved-embedding", "tied", target_modules=QV, modules_to_save=["embed_tokens"])
adapter("biases", "qwen2", target_modules=QV, bias="all")
adapter("gpt2-pissa", "gpt2", target_modules=["c_attn", "c_proj"], init_lora_weights="pissa", fan_in_fan_out=True)
adapter("gpt2-dora", "gpt2", target_modules=["c_fc"], use_dora=True, fan_in_fan_out=True)

# Ways to begin that leave the base alone when the adapter is read.
file = HERE / "plain" / "adapter_config.json"
text = file.read_text()
for start in (True, False, "gaussian", "eva", "mica", "lora_ga"):
    file.write_text(json.dumps(json.loads(text) | {"init_lora_weights": start}))
    expected["starts"][json.dumps(start)] = log_probs(PeftModel.from_pretrained(read("llama"), HERE / "plain"), IDS)
file.write_text(text)


def merged_weights(name):
    return PeftModel.from_pretrained(read("llama"), HERE / name).merge_and_unload().state_dict()


for pair in (("plain", "pissa"), ("layers", "plain"), ("patterns", "olora")):
    one, other = map(merged_weights, pair)
    model = read("llama")
    model.load_state_dict({key: (one[key] + other[key]) / 2 for key in one})
    expected["merged"]["+".join(pair)] = log_probs(model, IDS)


def configured(base, ids, changes):
    """The base's tensors under another config.json; what is None in `changes` is left out of it."""
    config = json.loads((HERE / base / "config.json").read_text()) | changes
    config = {key: value for key, value in config.items() if value is not None}
    work = HERE / "work"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(HERE / base, work)
    (work / "config.json").write_text(json.dumps(config))
    model = AutoModelForCausalLM.from_pretrained(work, dtype=torch.float32)
    expected["configs"].append({"base": base, "ids": ids, "changes": changes, "log_probs": log_probs(model, expected[ids])})
    shutil.rmtree(work)


new = dict(rope_parameters=None)
yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}  # fmt: skip
configured("llama", "long", {"max_position_embeddings": 128})
configured("llama", "long", new | {"max_position_embeddings": 32, "rope_theta": 500.0, "rope_scaling": yarn})
configured("llama", "long", {"max_position_embeddings": 128, "rope_parameters": yarn | {"rope_theta": 500.0, "mscale": 1.2, "mscale_all_dim": 0.8, "beta_fast": 8.0, "truncate": False}})  # fmt: skip
configured("llama", "long", {"max_position_embeddings": 128, "rope_parameters": yarn | {"factor": None}})
configured("llama", "long", new | {"max_position_embeddings": 128, "original_max_position_embeddings": 16, "rope_scaling": yarn, "rope_theta": 500.0})  # fmt: skip
configured("llama", "long", {"max_position_embeddings": 128, "rope_parameters": llama3 | {"rope_theta": 500.0}})
configured("llama", "long", new | {"max_position_embeddings": 128, "rope_scaling": llama3, "rope_theta": 500.0})
configured("llama", "long", {"max_position_embeddings": 128, "rope_scaling": {"type": "linear", "factor": 3.0}, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}})  # fmt: skip
configured("llama", "ids", {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 4, "attention_bias": None, "mlp_bias": None})  # fmt: skip
configured("qwen2", "ids", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0, "layer_types": None})
configured("qwen2", "ids", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2, "layer_types": None})
configured("qwen2", "ids", {"use_sliding_window": True, "sliding_window": 4, "layer_types": ["sliding_attention"] * 2})
# Both tensors are there and differ; both are there and are the same.
configured("llama", "ids", {"tie_word_embeddings": True})
tensors = load_file(HERE / "tied" / "model.safetensors")
save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, HERE / "tied" / "model.safetensors", {"format": "pt"})  # fmt: skip
configured("tied", "ids", {})

(HERE / "expected.json").write_text(json.dumps(expected) + "\n")
