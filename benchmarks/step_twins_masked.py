"""PyTorch twins of the masked objectives, as in `step_twins`: MAE (arXiv 2111.06377) with
SpectralEarth's adapter (2408.08447), and data2vec (2202.03555).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.step_networks import (
    Block,
    SpectralAdapter,
    SpectralImage,
    Trunk,
    encoder_of,
    positions_of,
)
from benchmarks.step_twin_base import Twin, bands_first, ema_
from eo_jax.experiment import Experiment
from eo_jax.models.encoder import Encoder
from eo_jax.models.stems import spectral_adapter


class MAE(Twin):
    """Masked autoencoder; the spectral adapter, if there is one, sees visible tokens only. Views
    have the bands last.
    """

    def __init__(self, experiment: Experiment):
        super().__init__()
        encoder, config = experiment.objective.encoder, experiment.objective.config
        _, size = next(iter(experiment.views.values()))
        self.patch, side = encoder.patch, size // encoder.patch
        self.visible = int(side**2 * (1 - config.mask_ratio) + 1e-9)
        self.encoder = nn.ModuleDict(
            {
                "stem": self.make_stem(encoder),
                "trunk": Trunk(encoder.width, encoder.layers, encoder.trunk.heads),
            }
        )
        self.decoder = Decoder(
            config, encoder.width, self.patch**2 * len(encoder.sensor.bands), side
        )
        self.register_buffer("positions", positions_of(encoder.width, side)[None], persistent=False)

    def make_stem(self, encoder: Encoder) -> nn.ModuleDict:
        spectral = isinstance(encoder.stem, spectral_adapter.Config)
        adapter = SpectralAdapter() if spectral else nn.Identity()
        channels = spectral_adapter.CHANNELS if spectral else len(encoder.sensor.bands)
        return nn.ModuleDict(
            {"adapter": adapter, "embed": nn.Linear(self.patch**2 * channels, encoder.width)}
        )

    def inputs(self, given: Mapping[str, Tensor]) -> list[Tensor]:
        return [given["global"][:, 0].contiguous(), given["noise"]]

    def forward(self, view: Tensor, noise: Tensor) -> Tensor:
        order = noise.argsort(1)
        seen, restore = order[:, : self.visible], order.argsort(1)
        patches = self.patches(view)
        tokens = self.embed(view, patches, seen) + _take(
            self.positions.expand(len(view), -1, -1), seen
        )
        predicted = self.decoder(self.encoder["trunk"](tokens), restore)
        return masked_error(predicted.float(), patches.flatten(2), restore >= self.visible)

    def patches(self, view: Tensor) -> Tensor:
        """[b, n, p * p, c], pixels row by row."""
        b, height, width, c = view.shape
        grid = view.reshape(b, height // self.patch, self.patch, width // self.patch, self.patch, c)
        return grid.transpose(2, 3).reshape(b, -1, self.patch**2, c)

    def embed(self, view: Tensor, patches: Tensor, seen: Tensor) -> Tensor:
        """Embeddings [b, k, d] of the visible tokens."""
        pixels = _take(patches.flatten(2), seen).unflatten(2, patches.shape[2:])
        features = self.encoder["stem"]["adapter"](pixels.flatten(0, 2))
        return self.encoder["stem"]["embed"](features.reshape(*seen.shape, -1))


class AllPixelsMAE(MAE):
    """MAE with adapter and patch embedding on the whole image, before masking. Views have the bands
    first.
    """

    def make_stem(self, encoder: Encoder) -> nn.ModuleDict:
        embed = nn.Conv2d(spectral_adapter.CHANNELS, encoder.width, self.patch, self.patch)
        return nn.ModuleDict({"adapter": SpectralImage(), "embed": embed})

    def inputs(self, given: Mapping[str, Tensor]) -> list[Tensor]:
        return [given["global"][:, 0].movedim(-1, 1).contiguous(), given["noise"]]

    def patches(self, view: Tensor) -> Tensor:
        return super().patches(view.movedim(1, -1))

    def embed(self, view: Tensor, patches: Tensor, seen: Tensor) -> Tensor:
        stem = self.encoder["stem"]
        return _take(stem["embed"](stem["adapter"](view)).flatten(2).transpose(1, 2), seen)


class Decoder(nn.Module):
    """Visible tokens, the class token first -> pixels of every token."""

    def __init__(self, config: Any, fan_in: int, pixels: int, side: int):
        super().__init__()
        width = config.decoder_width
        self.embed, self.predict = nn.Linear(fan_in, width), nn.Linear(width, pixels)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.Sequential(
            *(Block(width, config.decoder_heads) for _ in range(config.decoder_depth))
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.register_buffer("positions", positions_of(width, side)[None], persistent=False)

    def forward(self, tokens: Tensor, restore: Tensor) -> Tensor:
        x = self.embed(tokens)
        hidden = self.mask_token.to(x.dtype).expand(len(x), restore.shape[1] + 1 - x.shape[1], -1)
        patches = _take(torch.cat([x[:, 1:], hidden], dim=1), restore) + self.positions
        decoded = self.norm(self.blocks(torch.cat([x[:, :1], patches], dim=1)))
        return self.predict(decoded[:, 1:])


def _take(tokens: Tensor, ids: Tensor) -> Tensor:
    """[b, n, d] -> [b, k, d]"""
    return tokens.gather(1, ids[..., None].expand(-1, -1, tokens.shape[-1]))


def masked_error(predicted: Tensor, pixels: Tensor, masked: Tensor) -> Tensor:
    """Mean over the masked tokens of the squared error to pixels normalised by their token's mean
    and unbiased variance.
    """
    variance, mean = torch.var_mean(pixels, dim=-1, keepdim=True)
    error = (predicted - (pixels - mean) / (variance + 1e-6).sqrt()).square().mean(-1)
    return (error * masked).sum() / masked.sum()


class Data2Vec(Twin):
    """Tokens of a masked view predict the mean of the teacher's last layers on the whole view."""

    def __init__(self, experiment: Experiment):
        super().__init__()
        encoder, self.config = experiment.objective.encoder, experiment.objective.config
        self.encoder = encoder_of(experiment, encoder)
        self.regressor = nn.ModuleDict({"predict": nn.Linear(encoder.width, encoder.width)})
        self.regressor.register_parameter(
            "mask_token", nn.Parameter(torch.zeros(1, 1, encoder.width))
        )
        self.teacher = nn.ModuleDict({"encoder": encoder_of(experiment, encoder)}).requires_grad_(
            False
        )

    def inputs(self, given: Mapping[str, Tensor]) -> list[Tensor]:
        return [bands_first(given["global"][:, 0], self.encoder), given["masked"]]

    def forward(self, view: Tensor, masked: Tensor) -> Tensor:
        with torch.no_grad():
            x, layers = self.teacher["encoder"].tokens(view), []
            for block in self.teacher["encoder"].trunk.blocks:
                layers.append(x := block(x))

            def normalised(t):
                return F.layer_norm(t.float(), t.shape[-1:])

            targets = normalised(
                sum(normalised(x[:, 1:]) for x in layers[-self.config.average_top_k_layers :])
                / self.config.average_top_k_layers
            )
        encoder, token = self.encoder, self.regressor.mask_token
        found = encoder.trunk.norm(encoder.trunk.blocks(encoder.tokens(view, masked, token)))
        predicted = self.regressor["predict"](found[:, 1:]).float()
        error = F.smooth_l1_loss(predicted, targets, beta=self.config.beta, reduction="none").mean(
            -1
        )
        return (error * masked).sum() / masked.sum()

    @torch.no_grad()
    def after_step(self) -> None:
        ema_(self.teacher, (self.encoder,), self.config.momentum)
