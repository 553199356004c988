"""The Hugging Face side of lm.py: one task, one JSON line with CPU seconds and what was done in them."""

import argparse
import json
import resource
import time

import torch

torch.set_num_threads(1)

from datasets import Dataset  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback  # noqa: E402


class Clock(TrainerCallback):
    """CPU seconds of the training loop alone."""

    def on_train_begin(self, *args, **kwargs):
        self.start = time.process_time()

    def on_train_end(self, *args, **kwargs):
        self.seconds = time.process_time() - self.start


def rows(path):
    with open(path) as file:
        return [json.loads(line) for line in file]


def train(args, model, tokenizer):
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    common = dict(
        output_dir=args.scratch, per_device_train_batch_size=args.batch, num_train_epochs=1, learning_rate=1e-4,
        lr_scheduler_type="constant", bf16=False, fp16=False, use_cpu=True, report_to=[], save_strategy="no",
        logging_steps=1000, gradient_checkpointing=False, dataloader_num_workers=0, disable_tqdm=True, max_length=512,
    )
    clock = Clock()
    data = rows(args.data)
    if args.task == "sft":
        data = Dataset.from_list([{"prompt": row["prompt"], "completion": row["chosen"]} for row in data])
        trainer = SFTTrainer(model, args=SFTConfig(**common), train_dataset=data, processing_class=tokenizer,
                             callbacks=[clock])
    else:
        data = Dataset.from_list([{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in data])
        trainer = DPOTrainer(model, args=DPOConfig(precompute_ref_log_probs=True, **common), train_dataset=data,
                             processing_class=tokenizer, callbacks=[clock])
        # Where this version computes them when training starts, they are no part of the loop that is timed.
        trainer.get_train_dataloader()
    trainer.train()
    return clock.seconds, len(data)


def sample(args, model, tokenizer):
    prompt = rows(args.data)[0]["prompt"]
    ids = tokenizer([prompt] * args.batch, return_tensors="pt")
    options = dict(do_sample=True, temperature=1.0, top_k=0, max_new_tokens=args.tokens, min_new_tokens=args.tokens,
                   pad_token_id=tokenizer.eos_token_id)
    model.generate(**ids, **{**options, "max_new_tokens": 4, "min_new_tokens": 4})
    start = time.process_time()
    model.generate(**ids, **options)
    return time.process_time() - start, args.batch * args.tokens


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=["sft", "dpo", "sample"])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--scratch", required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--tokens", type=int, default=0)
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    seconds, count = (sample if args.task == "sample" else train)(args, model, tokenizer)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"cpu_seconds": seconds, "count": count, "peak_mib": peak}))


if __name__ == "__main__":
    main()
