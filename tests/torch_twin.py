"""SpecViT in PyTorch, written from its description (SpectralEarth, arXiv 2408.08447; timm's VisionTransformer), to compare the JAX encoder with."""

from __future__ import annotations

import torch
from torch import nn

SIZES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16), "huge": (1280, 32, 16), "giant": (1536, 40, 24)}


def spectral_adapter() -> nn.Sequential:
    """[b, 1, c, h, w] -> [b, 128, 1, h, w]; convolutions run along the band axis only."""
    layers: list[nn.Module] = []
    channels_in = 1
    for channels, kernel, stride in ((32, 7, 5), (64, 7, 5), (128, 5, 3)):
        layers += [
            nn.Conv3d(channels_in, channels, (kernel, 1, 1), (stride, 1, 1), (1, 0, 0)),
            nn.BatchNorm3d(channels),
            nn.ReLU(),
        ]
        channels_in = channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d((1, None, None)))


class Attention(nn.Module):
    """Multi-head self-attention with one fused qkv layer, its rows ordered (q, k, v), then head, then channel."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * (d // self.heads) ** -0.5).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, d))


class MLP(nn.Module):
    """Two layers with the exact (erf) GELU between."""

    def __init__(self, width: int):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLP(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """[b, 128, h, w] -> [b, n, d], tokens row by row."""

    def __init__(self, width: int, patch: int):
        super().__init__()
        self.proj = nn.Conv2d(128, width, patch, patch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    """timm's names and order of operations: embed, class token, positions for all tokens, blocks, final norm."""

    def __init__(self, width: int, depth: int, heads: int, patch: int, image_size: int):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (image_size // patch) ** 2, width))
        self.patch_embed = PatchEmbed(width, patch)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        return self.norm(self.blocks(x))


class SpecViT(nn.Module):
    """Images [b, c, h, w] -> normalised tokens [b, 1 + n, d], the class token first. No classification head."""

    def __init__(self, width: int, depth: int, heads: int, patch: int = 4, image_size: int = 128):
        super().__init__()
        self.spectral_adapter = spectral_adapter()
        self.vit_core = VisionTransformer(width, depth, heads, patch, image_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.vit_core(self.spectral_adapter(x[:, None])[:, :, 0])
