"""A training step of a small network in PyTorch with fused Adam: forward, backward, step, on one thread.

usage: torch_mlp.py WIDTH BATCH SECONDS; prints the CPU seconds of each of several rounds, per step, as JSON.
"""

import json
import sys
import time

import torch

torch.set_num_threads(1)
width, batch, budget = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
net = torch.nn.Sequential(
    torch.nn.Linear(17, width), torch.nn.Tanh(), torch.nn.Linear(width, width), torch.nn.Tanh(), torch.nn.Linear(width, 6)
)
optimizer = torch.optim.Adam(net.parameters(), lr=1e-4, eps=1e-5, fused=True)
x = torch.rand(batch, 17) * 2 - 1


def step():
    optimizer.zero_grad(set_to_none=True)
    net(x).square().mean().backward()
    optimizer.step()


for _ in range(20):
    step()
rounds = []
deadline = time.process_time() + budget
while time.process_time() < deadline or len(rounds) < 5:
    start = time.process_time()
    for _ in range(10):
        step()
    rounds.append((time.process_time() - start) / 10)
print(json.dumps(rounds))
