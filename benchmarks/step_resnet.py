"""A PyTorch twin of our ResNet encoders, for `step_peers`: He et al. 2016 (arXiv 1512.03385), strided in the 3 x 3 convolution."""

from __future__ import annotations

import itertools
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eo_jax.build import Experiment
from eo_jax.models.resnet import BlockShape


class ResNet(nn.Module):
    """Views [b, c, H, W] -> mean [b, d] over the cells after the last block."""

    def __init__(self, experiment: Experiment):
        super().__init__()
        encoder = experiment.objective.encoder
        channels = encoder.stem.channels(encoder.sensor)
        self.stem = nn.ModuleDict({"conv": nn.Conv2d(len(encoder.sensor.bands), channels, 7, 2, 3, bias=False), "norm": nn.BatchNorm2d(channels)})
        named = lambda prefix, modules, first: OrderedDict((f"{prefix}{i}", module) for i, module in enumerate(modules, first))  # noqa: E731
        stages = [nn.Sequential(named("block", map(ResidualBlock, shapes), 0)) for shapes in encoder.trunk.stages(channels)]
        self.trunk = nn.Sequential(named("layer", stages, 1))
        self.to(memory_format=torch.channels_last)  # the faster one, on CPU and GPU

    def forward(self, view: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem["norm"](self.stem["conv"](view))), 3, 2, 1)
        return self.trunk(x).mean((2, 3))


class ResidualBlock(nn.Module):
    """Convolutions with BatchNorm and ReLU, beside a shortcut, and a ReLU of the sum."""

    def __init__(self, shape: BlockShape):
        super().__init__()
        widths = [shape.channels_in, *(convolution.channels for convolution in shape.convolutions)]
        for i, ((fan_in, fan_out), conv) in enumerate(zip(itertools.pairwise(widths), shape.convolutions, strict=True), start=1):
            self.add_module(f"conv{i}", nn.Conv2d(fan_in, fan_out, conv.kernel, conv.stride, conv.kernel // 2, bias=False))
            self.add_module(f"norm{i}", nn.BatchNorm2d(fan_out))
        if shape.projects:
            self.shortcut_conv = nn.Conv2d(shape.channels_in, shape.channels, 1, shape.stride, bias=False)
            self.shortcut_norm = nn.BatchNorm2d(shape.channels)
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        inside, last = x, len(self.shape.convolutions)
        for i in range(1, last + 1):
            inside = getattr(self, f"norm{i}")(getattr(self, f"conv{i}")(inside))
            inside = inside if i == last else F.relu(inside)
        return F.relu(inside + (self.shortcut_norm(self.shortcut_conv(x)) if self.shape.projects else x))
