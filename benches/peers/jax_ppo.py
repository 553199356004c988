"""PPO compiled as one program with JAX, in the style of purejaxrl: environment, rollout and update in one `lax.scan`.

usage: jax_ppo.py cartpole|pendulum SEED  (settings on stdin as JSON)
Prints one JSON object: env steps, CPU seconds without compiling, seconds of compiling, mean return of the policy.
"""

import json
import sys
import time

import jax
import jax.numpy as jnp
import optax

LOG_2PI = 1.8378770664093453


# --------------------------------------------------------------------------------- environments (Gymnasium's dynamics)


def cartpole_reset(key):
    return jnp.concatenate([jax.random.uniform(key, (4,), minval=-0.05, maxval=0.05), jnp.zeros(1)])


def cartpole_step(state, action):
    x, x_dot, theta, theta_dot, t = state
    force = jnp.where(action == 1, 10.0, -10.0)
    cos, sin = jnp.cos(theta), jnp.sin(theta)
    temp = (force + 0.05 * theta_dot**2 * sin) / 1.1
    theta_acc = (9.8 * sin - cos * temp) / (0.5 * (4.0 / 3.0 - 0.1 * cos**2 / 1.1))
    x_acc = temp - 0.05 * theta_acc * cos / 1.1
    state = jnp.stack([x + 0.02 * x_dot, x_dot + 0.02 * x_acc, theta + 0.02 * theta_dot, theta_dot + 0.02 * theta_acc, t + 1])
    terminated = (jnp.abs(state[0]) > 2.4) | (jnp.abs(state[2]) > 12 * 2 * jnp.pi / 360)
    return state, 1.0, terminated, state[4] >= 500


def pendulum_reset(key):
    high = jnp.array([jnp.pi, 1.0])
    return jnp.concatenate([jax.random.uniform(key, (2,), minval=-high, maxval=high), jnp.zeros(1)])


def pendulum_step(state, action):
    theta, speed, t = state
    torque = jnp.clip(2.0 * action[0], -2.0, 2.0)
    angle = (theta + jnp.pi) % (2 * jnp.pi) - jnp.pi
    cost = angle**2 + 0.1 * speed**2 + 0.001 * torque**2
    speed = jnp.clip(speed + (15.0 * jnp.sin(theta) + 3.0 * torque) * 0.05, -8.0, 8.0)
    return jnp.stack([theta + speed * 0.05, speed, t + 1]), -cost, False, t + 1 >= 200


ENVS = {
    "cartpole": (cartpole_reset, cartpole_step, lambda s: s[:4], 4, 2, False),
    "pendulum": (pendulum_reset, pendulum_step, lambda s: jnp.stack([jnp.cos(s[0]), jnp.sin(s[0]), s[1]]), 3, 1, True),
}


# --------------------------------------------------------------------------------------------------------- networks


def init_mlp(key, sizes, gain):
    layers = []
    for i, (n_in, n_out) in enumerate(zip(sizes[:-1], sizes[1:])):
        key, sub = jax.random.split(key)
        scale = gain if i == len(sizes) - 2 else 2**0.5
        layers.append((jax.nn.initializers.orthogonal(scale)(sub, (n_in, n_out)), jnp.zeros(n_out)))
    return layers


def mlp(layers, x):
    for w, b in layers[:-1]:
        x = jnp.tanh(x @ w + b)
    w, b = layers[-1]
    return x @ w + b


def make(env, c):
    reset, step, observe, n_obs, n_act, continuous = ENVS[env]
    observe_all = jax.vmap(observe)

    def log_prob(params, obs, action):
        out = mlp(params["policy"], obs)
        if continuous:
            noise = (action - out) * jnp.exp(-params["log_std"])
            log_p = jnp.sum(-0.5 * noise**2 - params["log_std"] - 0.5 * LOG_2PI, -1)
            return log_p, jnp.sum(params["log_std"] + 0.5 * LOG_2PI + 0.5)
        log_softmax = jax.nn.log_softmax(out)
        log_p = jnp.take_along_axis(log_softmax, action[:, None], 1)[:, 0]
        return log_p, -jnp.mean(jnp.sum(jnp.exp(log_softmax) * log_softmax, -1))

    def sample(params, obs, key):
        out = mlp(params["policy"], obs)
        if continuous:
            return out + jnp.exp(params["log_std"]) * jax.random.normal(key, out.shape)
        return jax.random.categorical(key, out)

    def loss_fn(params, batch):
        obs, action, old_log_p, advantage, target = batch
        log_p, entropy = log_prob(params, obs, action)
        value = mlp(params["value"], obs)[:, 0]
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        ratio = jnp.exp(log_p - old_log_p)
        clipped = jnp.clip(ratio, 1 - c["clip"], 1 + c["clip"])
        policy_loss = -jnp.mean(jnp.minimum(ratio * advantage, clipped * advantage))
        return policy_loss + 0.5 * jnp.mean((value - target) ** 2) - c["entropy"] * entropy

    updates = c["total"] // (c["envs"] * c["steps"])
    per_update = c["epochs"] * c["minibatches"]
    schedule = lambda count: c["lr"] * (1.0 - (count // per_update) / updates)
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(schedule, eps=1e-5))
    size = c["envs"] * c["steps"]

    def train(key):
        key, k1, k2, k3 = jax.random.split(key, 4)
        params = {
            "policy": init_mlp(k1, [n_obs, 64, 64, n_act], 0.01),
            "value": init_mlp(k2, [n_obs, 64, 64, 1], 1.0),
            "log_std": jnp.zeros(n_act),
        }
        states = jax.vmap(reset)(jax.random.split(k3, c["envs"]))

        def update(carry, _):
            params, opt, states, key = carry

            def env_step(carry, _):
                states, key = carry
                key, k_act, k_reset = jax.random.split(key, 3)
                obs = observe_all(states)
                action = sample(params, obs, k_act)
                log_p, _ = log_prob(params, obs, action)
                value = mlp(params["value"], obs)[:, 0]
                new, reward, terminated, truncated = jax.vmap(step)(states, action)
                done = terminated | truncated
                after = mlp(params["value"], observe_all(new))[:, 0]
                fresh = jax.vmap(reset)(jax.random.split(k_reset, c["envs"]))
                states = jnp.where(done[:, None], fresh, new)
                reward = jnp.broadcast_to(reward, done.shape) * c["reward_scale"]
                return (states, key), (obs, action, log_p, value, reward, terminated, done, after)

            (states, key), (obs, action, log_p, value, reward, terminated, done, after) = jax.lax.scan(
                env_step, (states, key), None, c["steps"]
            )

            def gae(carry, x):
                reward, value, terminated, done, after = x
                delta = reward + c["gamma"] * after * (1 - terminated) - value
                advantage = delta + c["gamma"] * c["lambda"] * (1 - done) * carry
                return advantage, advantage

            _, advantage = jax.lax.scan(
                gae, jnp.zeros(c["envs"]), (reward, value, terminated, done, after), reverse=True
            )
            data = (obs, action, log_p, advantage, advantage + value)
            data = jax.tree.map(lambda x: x.reshape((size,) + x.shape[2:]), data)

            def epoch(carry, key):
                order = jax.random.permutation(key, size)
                batches = jax.tree.map(
                    lambda x: x[order].reshape((c["minibatches"], -1) + x.shape[1:]), data
                )

                def minibatch(carry, batch):
                    params, opt = carry
                    grads = jax.grad(loss_fn)(params, batch)
                    changes, opt = optimizer.update(grads, opt, params)
                    return (optax.apply_updates(params, changes), opt), None

                return jax.lax.scan(minibatch, carry, batches)[0], None

            key, sub = jax.random.split(key)
            (params, opt), _ = jax.lax.scan(epoch, (params, opt), jax.random.split(sub, c["epochs"]))
            return (params, opt, states, key), None

        (params, *_), _ = jax.lax.scan(update, (params, optimizer.init(params), states, key), None, updates)
        return params

    def evaluate(params, key):
        states = jax.vmap(reset)(jax.random.split(key, 100))

        def env_step(carry, _):
            states, alive = carry
            out = mlp(params["policy"], observe_all(states))
            action = out if continuous else jnp.argmax(out, -1)
            states, reward, terminated, truncated = jax.vmap(step)(states, action)
            return (states, alive * (1 - (terminated | truncated))), reward * alive

        (_, _), rewards = jax.lax.scan(env_step, (states, jnp.ones(100)), None, 500)
        return rewards.sum(0).mean()

    return train, evaluate, updates * size


def main():
    env, seed = sys.argv[1], int(sys.argv[2])
    train, evaluate, steps = make(env, json.load(sys.stdin))
    key = jax.random.PRNGKey(seed)
    start = time.process_time()
    compiled = jax.jit(train).lower(key).compile()
    compiling = time.process_time() - start
    jax.block_until_ready(compiled(jax.random.PRNGKey(seed + 1000)))
    start = time.process_time()
    params = jax.block_until_ready(compiled(key))
    cpu = time.process_time() - start
    result = jax.jit(evaluate)(params, jax.random.PRNGKey(seed + 1))
    print(json.dumps({"steps": steps, "cpu_seconds": cpu, "compile_seconds": compiling, "return": float(result)}))


main()
