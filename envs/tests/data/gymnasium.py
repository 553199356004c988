"""Makes gymnasium.json: short rollouts of Gymnasium's classic control, to test the ports against.

pip install gymnasium==1.4.0 numpy==2.4.6; python gymnasium.py > gymnasium.json
"""

import json
import sys

sys.path.pop(0)  # this file is called like the package
import gymnasium
import numpy as np

STEPS = 30
# Initial states: one as from a reset, one near the end of the task or at a bound of the state.
TASKS = {
    "CartPole-v1": [[0.02, -0.03, 0.01, 0.04], [-2.1, -1.4, 0.08, 0.5]],
    "Pendulum-v1": [[2.6, -0.7], [-0.4, 7.8]],
    "MountainCar-v0": [[-0.52, 0.0], [0.42, 0.03]],
    "MountainCarContinuous-v0": [[-0.47, 0.0], [-1.15, -0.04]],
    "Acrobot-v1": [[0.04, -0.08, 0.02, 0.05], [2.3, 0.9, 3.0, -6.0]],
}


def short(values):
    """float32 values in as few digits as restore them."""
    return [float(np.format_float_positional(np.float32(v), unique=True)) for v in values]


def rollout(env_id, start):
    env = gymnasium.make(env_id).unwrapped
    env.reset(seed=0)
    dtype = np.float32 if env_id == "MountainCarContinuous-v0" else np.float64
    env.state = np.array(start, dtype=dtype)
    rng = np.random.default_rng(len(env_id))
    result = {"initial_state": start, "actions": [], "observations": [], "rewards": [], "terminated": []}
    for _ in range(STEPS):
        if isinstance(env.action_space, gymnasium.spaces.Discrete):
            action = shown = int(rng.integers(env.action_space.n))
        else:
            # Half as wide again as the bounds, to see what they do.
            action = (rng.uniform(-1.5, 1.5, 1) * env.action_space.high).astype(np.float32)
            shown = short(action)
        observation, reward, terminated, _, _ = env.step(action)
        result["actions"].append(shown)
        result["observations"].append(short(observation))
        result["rewards"].append(float(reward))
        result["terminated"].append(bool(terminated))
        if terminated:
            break
    return result


versions = {"gymnasium": gymnasium.__version__, "numpy": np.__version__}
tasks = [{"env_id": task, "rollouts": [rollout(task, start) for start in starts]} for task, starts in TASKS.items()]
lines = ",\n".join(json.dumps(task) for task in tasks)
print(f'{{"versions": {json.dumps(versions)}, "tasks": [\n{lines}\n]}}')
