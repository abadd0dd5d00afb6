"""One training step of the reference network in PyTorch: channels_last_3d, float32 or bfloat16, compiled or not.

`python torch_step.py DTYPE MODE predict` times the prediction of a batch instead.
"""

from __future__ import annotations

import sys

import torch
from torch import nn

from protocol import serve


class Block(nn.Module):
    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv3d(channels, filters, 3, stride, 1, bias=False)
        self.second = nn.Conv3d(filters, filters, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv3d(channels, filters, 1, stride, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm3d(filters) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norms[0](self.first(x)))
        return torch.relu(self.norms[1](self.second(y)) + self.norms[2](self.shortcut(x)))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(1, 32, 1), Block(32, 64, 2), Block(64, 128, 2))
        self.output = nn.Linear(128, 11)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(self.blocks(x).mean((2, 3, 4)))


def main() -> None:
    dtype, mode, *what = sys.argv[1:]
    torch.manual_seed(0)
    model = Network().to(memory_format=torch.channels_last_3d)
    forward = torch.compile(model) if mode == "compiled" else model
    optimizer = torch.optim.Adam(model.parameters())
    volumes = torch.randn(16, 1, 28, 28, 28).to(memory_format=torch.channels_last_3d)
    labels = torch.randint(0, 11, (16,))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = nn.functional.cross_entropy(forward(volumes), labels)
        loss.backward()
        optimizer.step()

    def predict() -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            torch.softmax(forward(volumes), -1)

    if what == ["predict"]:
        model.eval()
        serve(predict, warm_up=3)
    else:
        serve(step, warm_up=3)


if __name__ == "__main__":
    main()
