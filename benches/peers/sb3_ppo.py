"""Stable-Baselines3's PPO on one thread.

usage: sb3_ppo.py ENV SEED STEPS (settings on stdin as JSON); prints steps, CPU seconds of learning, mean return.
"""

import json
import sys
import time

import gymnasium as gym
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

torch.set_num_threads(1)
env_id, seed, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
settings = json.load(sys.stdin)
envs = make_vec_env(env_id, n_envs=settings.pop("n_envs"), seed=seed)
anneal = settings.pop("anneal", False)
if anneal:
    lr, clip = settings["learning_rate"], settings["clip_range"]
    settings["learning_rate"] = lambda left: left * lr
    settings["clip_range"] = lambda left: left * clip
model = PPO("MlpPolicy", envs, seed=seed, device="cpu", **settings)
start = time.process_time()
model.learn(steps)
cpu = time.process_time() - start
mean, _ = evaluate_policy(model, make_vec_env(env_id, n_envs=1, seed=seed + 1000), n_eval_episodes=50)
print(json.dumps({"steps": model.num_timesteps, "cpu_seconds": cpu, "return": float(mean)}))
