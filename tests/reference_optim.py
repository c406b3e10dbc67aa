"""Optimizers and learning-rate schedules in numpy float64, one weight at a time, to compare
`eo_jax.optim.optimizers` with.
"""

from __future__ import annotations

import math

import numpy as np


def sgd(weight, gradients, rates, momentum, decay):
    """PyTorch's SGD, dampening 0: the decay is part of the gradient; the learning rate is outside
    the buffer.
    """
    buffer = np.zeros_like(weight)
    for gradient, rate in zip(gradients, rates, strict=True):
        buffer = momentum * buffer + gradient + decay * weight
        weight = weight - rate * buffer
    return weight


def lars(weight, gradients, rates, momentum, decay, trust):
    """LARS as in Barlow Twins' released code: the ratio has the norm of gradient plus decay below;
    the learning rate is outside the buffer.

    Vectors have neither ratio nor decay.
    """
    buffer = np.zeros_like(weight)
    for gradient, rate in zip(gradients, rates, strict=True):
        if weight.ndim > 1:
            gradient = gradient + decay * weight
            norms = np.linalg.norm(weight), np.linalg.norm(gradient)
            gradient = gradient * (trust * norms[0] / norms[1] if all(norms) else 1.0)
        buffer = momentum * buffer + gradient
        weight = weight - rate * buffer
    return weight


def lars_of_the_paper(weight, gradients, rates, momentum, decay, trust):
    """You et al. 2017 (arXiv 1708.03888), algorithm 1: the ratio has the sum of both norms below;
    the learning rate is inside the buffer.
    """
    buffer = np.zeros_like(weight)
    for gradient, rate in zip(gradients, rates, strict=True):
        size = np.linalg.norm(weight)
        local = trust * size / (np.linalg.norm(gradient) + decay * size)
        buffer = momentum * buffer + rate * local * (gradient + decay * weight)
        weight = weight - buffer
    return weight


def warmed_up(step, warmup, start, peak, after):
    """A straight line from `start` to `peak`, then `after` of the steps since."""
    return start + (peak - start) * step / warmup if step < warmup else after(step - warmup)


def cosine(step, length, peak, end):
    """Loshchilov, Hutter 2017 (SGDR, arXiv 1608.03983), eq. 5, without restarts."""
    return end + (peak - end) * (1 + math.cos(math.pi * step / length)) / 2


def steps_down(step, milestones, gamma, peak):
    """PyTorch's MultiStepLR: times `gamma` from each milestone on."""
    for milestone in milestones:
        peak = peak * gamma if step >= milestone else peak
    return peak
