#!/usr/bin/env python3
"""Pairwise and its Python peers side by side: `python3 benches/peers/run.py`.

Installs the peers into a virtual environment (target/peers), builds our side, and runs both in turn on one core.
Every figure is a ratio of medians per CPU second of that core; spreads are the smallest and the largest round.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

# One thread each, so that a CPU second is a second of one core.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1", "JAX_PLATFORMS": "cpu",
    "CUDA_VISIBLE_DEVICES": "",
}

PPO = """
env = "{env}"
reward = "true"
steps = {steps}
[ppo]
envs = {envs}
rollout_steps = {rollout}
epochs = {epochs}
minibatch_size = {minibatch}
learning_rate = {lr}
gamma = {gamma}
gae_lambda = {gae_lambda}
clip_range = {clip}
anneal_learning_rate = {anneal_lr}
anneal_clip_range = {anneal_clip}
entropy_coefficient = {entropy}
value_coefficient = 0.5
max_gradient_norm = 0.5
hidden = [64, 64]
activation = "tanh"
normalize_observations = false
scale_rewards = false
"""

# Rollouts, epochs and minibatches of purejaxrl's scripts. On CartPole its own learning rate of 2.5e-4 and gamma of 0.99
# saturate the value network with unscaled rewards, and both sides end anywhere between 250 and 500.
JAX = {
    "cartpole": dict(env="CartPole-v1", envs=8, rollout=128, epochs=4, minibatches=4, lr=1e-3, gamma=0.98,
                     gae_lambda=0.8, clip=0.2, entropy=0.0, steps=500_000),
    "pendulum": dict(env="Pendulum-v1", envs=8, rollout=512, epochs=10, minibatches=32, lr=1e-3, gamma=0.95,
                     gae_lambda=0.95, clip=0.2, entropy=0.0, steps=300_000),
}

PENDULUM = dict(env="Pendulum-v1", envs=4, rollout=1024, epochs=10, minibatch=64, lr=1e-3, gamma=0.9, gae_lambda=0.95,
                clip=0.2, entropy=0.0, steps=100_000, anneal=False)

# rl-baselines3-zoo's tuned settings, those of Pendulum also without its state-dependent exploration (gSDE), which we do
# not have: then both sides do the same. Last, Stable-Baselines3's own defaults.
SB3 = {
    "CartPole-v1, tuned by rl-zoo": dict(
        env="CartPole-v1", envs=8, rollout=32, epochs=20, minibatch=256, lr=1e-3, gamma=0.98, gae_lambda=0.8, clip=0.2,
        entropy=0.0, steps=100_000, anneal=True),
    "Pendulum-v1, tuned by rl-zoo": PENDULUM | dict(theirs=dict(use_sde=True, sde_sample_freq=4)),
    "Pendulum-v1, the same without gSDE": PENDULUM,
    "Pendulum-v1, its defaults": PENDULUM | dict(envs=1, rollout=2048, lr=3e-4, gamma=0.99),
}

# imitation's agent steps and comparisons; the rest is our preset.
PREFERENCES = """
env = "pendulum"
steps = 125000
[preferences]
labels = 200
"""

MLP_SIZES = [(64, 64), (64, 256), (64, 1024), (64, 4096), (256, 64), (256, 256), (256, 1024), (256, 4096)]


def run(command, stdin=""):
    done = subprocess.run([str(c) for c in command], input=stdin, capture_output=True, text=True,
                          env={**os.environ, **ONE_THREAD}, cwd=ROOT)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def our_binary():
    command = ["cargo", "bench", "--bench", "ours", "--no-run", "--locked", "--message-format", "json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    messages = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    return next(m["executable"] for m in messages if m.get("target", {}).get("name") == "ours" and m.get("executable"))


def python(folder):
    if not (folder / "bin" / "python").exists():
        venv.create(folder, with_pip=True)
    interpreter = folder / "bin" / "python"
    subprocess.run([interpreter, "-m", "pip", "install", "-q", "-r", HERE / "requirements.txt"], check=True)
    return interpreter


def spread(values, digits):
    return f"{statistics.median(values):,.{digits}f} [{min(values):,.{digits}f}, {max(values):,.{digits}f}]"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="matmul,mlp,jax,sb3,fit,preferences", help="comma-separated parts")
    parser.add_argument("--seeds", type=int, default=5, help="rounds of the runs that take a seed")
    parser.add_argument("--seconds", type=float, default=2.0, help="CPU seconds of a round of the short ones")
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--venv", type=Path, default=ROOT / "target" / "peers")
    args = parser.parse_args()
    parts = args.only.split(",")
    ours, theirs = our_binary(), python(args.venv)
    os.sched_setaffinity(0, {args.core})
    rows, results = [], {}

    def row(name, unit, us, them, peer, digits=0, higher=True, note=""):
        ratio = statistics.median(us) / statistics.median(them)
        ratio = ratio if higher else 1 / ratio
        rows.append(f"| {name} | {peer} | {unit} | {spread(us, digits)} | {spread(them, digits)} | {ratio:.1f} × | {note} |")
        results[name] = dict(peer=peer, unit=unit, ours=us, theirs=them, ratio=ratio, note=note)
        print(rows[-1], flush=True)

    print("| what | peer | unit | pairwise | peer | ratio | |\n|---|---|---|---:|---:|---:|---|", flush=True)
    roofline = None
    if "matmul" in parts or "mlp" in parts:
        roofline = statistics.median(run([ours, "matmul", args.seconds]))
        results["matmul GFLOP/s"] = roofline
    if "mlp" in parts:
        for width, batch in MLP_SIZES:
            us, them = [], []
            for _ in range(3):
                us += run([ours, "mlp", width, batch, args.seconds / 3])
                them += run([theirs, HERE / "torch_mlp.py", width, batch, args.seconds / 3])
            us, them = [s * 1e6 for s in us], [s * 1e6 for s in them]
            # 2 FLOP a weight and sample forward, 4 backward.
            flop = 6 * batch * (17 * width + width * width + width * 6)
            rate = flop / statistics.median(us) * 1e-3
            row(f"training step, width {width}, batch {batch}", "µs", us, them, "PyTorch, fused Adam", 0, False,
                f"{rate:.0f} GFLOP/s, {100 * rate / roofline:.0f} % of {roofline:.0f}")
    if "jax" in parts:
        for env, s in JAX.items():
            minibatch = s["envs"] * s["rollout"] // s["minibatches"]
            toml = PPO.format(**s, minibatch=minibatch, anneal_lr="true", anneal_clip="false")
            settings = dict(envs=s["envs"], steps=s["rollout"], epochs=s["epochs"], minibatches=s["minibatches"], lr=s["lr"],
                            clip=s["clip"], entropy=s["entropy"], total=s["steps"], gamma=s["gamma"],
                            reward_scale=1.0, **{"lambda": s["gae_lambda"]})
            us, them = [], []
            for seed in range(args.seeds):
                us.append(run([ours, "run", seed], toml))
                them.append(run([theirs, HERE / "jax_ppo.py", env, seed], json.dumps(settings)))
            versus(row, f"PPO {s['env']}, 8 × {s['rollout']}", "JAX, compiled", us, them,
                   f"; compiling takes it {statistics.median(t['compile_seconds'] for t in them):.0f} s")
    if "sb3" in parts:
        for name, s in SB3.items():
            anneal = "true" if s["anneal"] else "false"
            toml = PPO.format(**s, anneal_lr=anneal, anneal_clip=anneal)
            settings = dict(n_envs=s["envs"], n_steps=s["rollout"], batch_size=s["minibatch"], n_epochs=s["epochs"],
                            learning_rate=s["lr"], gamma=s["gamma"], gae_lambda=s["gae_lambda"], clip_range=s["clip"],
                            ent_coef=s["entropy"], anneal=s["anneal"], **s.get("theirs", {}))
            us, them = [], []
            for seed in range(args.seeds):
                us.append(run([ours, "run", seed], toml))
                them.append(run([theirs, HERE / "sb3_ppo.py", s["env"], seed, s["steps"]], json.dumps(settings)))
            versus(row, f"PPO {name}", "Stable-Baselines3", us, them, "")
    if "fit" in parts:
        us, them = [], []
        for _ in range(3):
            us += run([ours, "fit", args.seconds])
            them += run([theirs, HERE / "imitation_prefs.py", "fit", args.seconds])
        row("reward fit, 50-step clips, 32 × 32", "pairs/s", us, them, "imitation")
    if "preferences" in parts:
        us = [run([ours, "run", seed], PREFERENCES) for seed in range(args.seeds)]
        them = [run([theirs, HERE / "imitation_prefs.py", "run", seed]) for seed in range(min(args.seeds, 3))]
        row("Pendulum from 200 comparisons, 125 k steps", "CPU s", [r["cpu_seconds"] for r in us],
            [r["cpu_seconds"] for r in them], "imitation", 1, False, returns(us, them))
    out = ROOT / "target" / "peers.json"
    out.write_text(json.dumps(results, indent=1))
    print(f"\n{out}")


def versus(row, name, peer, us, them, note):
    rate = lambda all: [r["steps"] / r["cpu_seconds"] for r in all]
    row(name, "env steps/s", rate(us), rate(them), peer, note=returns(us, them) + note)


def returns(us, them):
    median = lambda all: statistics.median(r["return"] for r in all)
    return f"median return {median(us):.0f}, peer's {median(them):.0f}"


if __name__ == "__main__":
    main()
