"""`imitation`'s preference comparisons, with the settings its documentation tuned for Pendulum.

usage: imitation_prefs.py fit SECONDS | imitation_prefs.py run SEED
`fit` prints dataset pairs per CPU second for one reward network; `run` a whole preference run.
"""

import json
import sys
import tempfile
import time

import numpy as np
import torch

torch.set_num_threads(1)

from imitation.algorithms import preference_comparisons as pc
from imitation.data.types import TrajectoryWithRew
from imitation.policies.base import FeedForward32Policy, NormalizeFeaturesExtractor
from imitation.rewards.reward_nets import BasicRewardNet
from imitation.util import logger
from imitation.util.networks import RunningNorm
from imitation.util.util import make_vec_env
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy


def fit(budget):
    """200 pairs of 50-step fragments, network 32 × 32, batches of 32 pairs, 10 epochs a call."""
    rng = np.random.default_rng(0)
    venv = make_vec_env("Pendulum-v1", n_envs=1, rng=rng)
    net = BasicRewardNet(venv.observation_space, venv.action_space, normalize_input_layer=RunningNorm)

    def fragment():
        obs = rng.uniform(-1, 1, (51, 3)).astype(np.float32)
        acts = rng.uniform(-1, 1, (50, 1)).astype(np.float32)
        return TrajectoryWithRew(obs, acts, None, False, np.zeros(50, dtype=np.float32))

    dataset = pc.PreferenceDataset()
    dataset.push([(fragment(), fragment()) for _ in range(200)], (rng.random(200) < 0.5).astype(np.float32))
    trainer = pc.BasicRewardTrainer(
        preference_model=pc.PreferenceModel(net), loss=pc.CrossEntropyRewardLoss(), rng=rng, epochs=10, batch_size=32
    )
    trainer.logger = logger.configure(tempfile.mkdtemp(), format_strs=[])
    rounds = []
    deadline = time.process_time() + budget
    while time.process_time() < deadline or len(rounds) < 5:
        start = time.process_time()
        trainer.train(dataset)
        rounds.append(200 * 10 / (time.process_time() - start))
    print(json.dumps(rounds))


def run(seed):
    """200 comparisons, 125 thousand agent steps."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    venv = make_vec_env("Pendulum-v1", n_envs=8, rng=rng)
    start = time.process_time()
    net = BasicRewardNet(venv.observation_space, venv.action_space, normalize_input_layer=RunningNorm)
    trainer = pc.BasicRewardTrainer(
        preference_model=pc.PreferenceModel(net), loss=pc.CrossEntropyRewardLoss(), epochs=10, rng=rng
    )
    agent = PPO(
        policy=FeedForward32Policy,
        policy_kwargs=dict(
            features_extractor_class=NormalizeFeaturesExtractor,
            features_extractor_kwargs=dict(normalize_class=RunningNorm),
        ),
        env=venv, seed=seed, n_steps=2048 // venv.num_envs, batch_size=64, ent_coef=0.01, learning_rate=2e-3,
        clip_range=0.1, gae_lambda=0.95, gamma=0.97, n_epochs=10, device="cpu",
    )
    generator = pc.AgentTrainer(algorithm=agent, reward_fn=net, venv=venv, exploration_frac=0.05, rng=rng)
    comparisons = pc.PreferenceComparisons(
        generator, net, num_iterations=60, fragmenter=pc.RandomFragmenter(warning_threshold=0, rng=rng),
        preference_gatherer=pc.SyntheticGatherer(rng=rng), reward_trainer=trainer, fragment_length=100,
        transition_oversampling=1, initial_comparison_frac=0.1, allow_variable_horizon=False,
        initial_epoch_multiplier=4, query_schedule="hyperbolic",
    )
    comparisons.train(total_timesteps=125_000, total_comparisons=200)
    cpu = time.process_time() - start
    mean, _ = evaluate_policy(agent.policy, make_vec_env("Pendulum-v1", n_envs=1, rng=rng), n_eval_episodes=50)
    print(json.dumps({"cpu_seconds": cpu, "return": float(mean)}))


fit(float(sys.argv[2])) if sys.argv[1] == "fit" else run(int(sys.argv[2]))
