"""Encoders with the heads of their methods in PyTorch, written from the papers, with the names that
their weights have in published files: MAE (arXiv 2111.06377), DINO (2104.14294), MoCo-v3
(2104.02057).
"""

from __future__ import annotations

import itertools

import torch
from published_twins import zeros
from torch import nn
from torch.nn import functional
from torch_twin import Block, VisionTransformer


class MaskedAutoencoder(VisionTransformer):
    """MAE: visible tokens through the encoder; then all tokens, in the order of the image and with
    one vector for each hidden one, through the decoder.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        depth: int,
        heads: int,
        patch: int,
        image_size: int,
        decoder: tuple[int, int, int],
    ):
        super().__init__(channels, width, depth, heads, patch, image_size)
        own, own_depth, own_heads = decoder
        self.patch = patch
        self.mask_token = zeros(1, 1, own)
        self.decoder_embed = nn.Linear(width, own)
        self.decoder_pos_embed = zeros(*self.pos_embed.shape[:2], own)
        self.decoder_blocks = nn.ModuleList(Block(own, own_heads) for _ in range(own_depth))
        self.decoder_norm = nn.LayerNorm(own, eps=1e-6)
        self.decoder_pred = nn.Linear(own, patch**2 * channels)

    def forward(self, images: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Predicted images [b, c, h, w]; `hidden` [b, n] is True for tokens that are not seen, as
        many in each image.
        """
        order = hidden.int().argsort(dim=1, stable=True)
        seen = order[:, : int((~hidden[0]).sum())]
        tokens = self.patch_embed(images) + self.pos_embed[:, 1:]
        tokens = torch.stack([one[ids] for one, ids in zip(tokens, seen, strict=True)])
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(images), -1, -1)
        x = self.decoder_embed(self.norm(self.blocks(torch.cat([first, tokens], dim=1))))

        full = self.mask_token.repeat(len(images), hidden.shape[1], 1)
        for one, ids, found in zip(full, seen, x[:, 1:], strict=True):
            one[ids] = found
        x = torch.cat([x[:, :1], full], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        return self.image(self.decoder_pred(self.decoder_norm(x))[:, 1:])

    def image(self, tokens: torch.Tensor) -> torch.Tensor:
        """[b, n, row column channel] -> [b, c, h, w] of a square of tokens."""
        side = int(tokens.shape[1] ** 0.5)
        x = tokens.reshape(len(tokens), side, side, self.patch, self.patch, -1)
        return x.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


class UnitRows(nn.Module):
    """A linear layer without bias whose rows have the length g: weight normalisation."""

    def __init__(self, width: int, rows: int):
        super().__init__()
        self.weight_g, self.weight_v = zeros(rows, 1), zeros(rows, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ (self.weight_g * self.weight_v / self.weight_v.norm(dim=1, keepdim=True)).T


class DINOHead(nn.Module):
    """Three layers with GELU between, the unit sphere, prototypes."""

    def __init__(self, width: int, hidden: int, bottleneck: int, prototypes: int):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )
        self.last_layer = UnitRows(bottleneck, prototypes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last_layer(functional.normalize(self.mlp(x), dim=-1))


class MultiCropWrapper(nn.Module):
    """Crops of one size through encoder and head, after each other in one batch."""

    def __init__(self, backbone: nn.Module, head: nn.Module):
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, crops: list[torch.Tensor]) -> torch.Tensor:
        return self.head(self.backbone(torch.cat(crops))[:, 0])


def moco_v3(encoder: VisionTransformer, widths: list[int]) -> VisionTransformer:
    """MoCo-v3's ViT, whose classifier is the projector: linear layers without bias, BatchNorm after
    each, and ReLU between; the last BatchNorm has no weights.
    """
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(itertools.pairwise(widths)):
        last = i == len(widths) - 2
        layers += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after, affine=not last)]
        layers += [] if last else [nn.ReLU()]
    encoder.head = nn.Sequential(*layers)
    return encoder
