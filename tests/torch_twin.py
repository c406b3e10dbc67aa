"""Published encoders in PyTorch, written from their descriptions, with the names of their weights:
what exported weights must load into.

SpecViT and SpecResNet of SpectralEarth (arXiv 2408.08447), timm's VisionTransformer, torchvision's
ResNet (arXiv 1512.03385), SegFormer's MiT (arXiv 2105.15203). None has a classification head.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

SIZES = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
    "giant": (1536, 40, 24),
}


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
    """Multi-head self-attention with one fused qkv layer, its rows ordered (q, k, v), then head,
    then channel.
    """

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
    """[b, c, h, w] -> [b, n, d], tokens row by row."""

    def __init__(self, channels: int, width: int, patch: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, patch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    """timm's names and order of operations: embed, class token, positions for all tokens, blocks,
    final norm.
    """

    def __init__(
        self, channels: int, width: int, depth: int, heads: int, patch: int, image_size: int
    ):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (image_size // patch) ** 2, width))
        self.patch_embed = PatchEmbed(channels, width, patch)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        return self.norm(self.blocks(x))


class SpecViT(nn.Module):
    """Images [b, c, h, w] -> normalised tokens [b, 1 + n, d], the class token first. No
    classification head.
    """

    def __init__(self, width: int, depth: int, heads: int, patch: int = 4, image_size: int = 128):
        super().__init__()
        self.spectral_adapter = spectral_adapter()
        self.vit_core = VisionTransformer(128, width, depth, heads, patch, image_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.vit_core(self.spectral_adapter(x[:, None])[:, :, 0])


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, channels_in: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut(channels_in, width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(out + self.downsample(x))


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 (which has the stride) and 1 x 1 convolutions beside a shortcut."""

    expansion = 4

    def __init__(self, channels_in: int, width: int, stride: int, channels: int | None = None):
        super().__init__()
        channels = channels or 4 * width
        self.conv1 = nn.Conv2d(channels_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.downsample = shortcut(channels_in, channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = torch.relu(self.bn1(self.conv1(x)))
        out = self.bn3(self.conv3(torch.relu(self.bn2(self.conv2(out)))))
        return torch.relu(out + self.downsample(x))


def shortcut(channels_in: int, channels: int, stride: int) -> nn.Module:
    """The identity where shapes allow it; torchvision leaves `downsample` out there, and so do the
    keys.
    """
    if stride == 1 and channels_in == channels:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
    )


def resnet_layers(depth: int, first: nn.Module | None = None) -> dict[str, nn.Sequential]:
    """{"layer1": ..., ..., "layer4": ...} of a ResNet on 64 channels; `first` takes the place of
    the first block.
    """
    block, depths = {
        18: (BasicBlock, (2, 2, 2, 2)),
        34: (BasicBlock, (3, 4, 6, 3)),
        50: (Bottleneck, (3, 4, 6, 3)),
        101: (Bottleneck, (3, 4, 23, 3)),
    }[depth]
    layers, channels = {}, 64
    for i, count in enumerate(depths):
        width = 64 * 2**i
        blocks = [block(channels, width, 1 if i == 0 else 2)]
        channels = width * block.expansion
        blocks += [block(channels, width, 1) for _ in range(count - 1)]
        if first and i == 0:
            blocks[0] = first
        layers[f"layer{i + 1}"] = nn.Sequential(*blocks)
    return layers


class ResNet(nn.Module):
    """Images [b, c, h, w] -> features [b, d, h / 32, w / 32]: torchvision's ResNet up to its
    pooling.
    """

    def __init__(self, depth: int, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for name, layer in resnet_layers(depth).items():
            setattr(self, name, layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class SpecResNet(nn.Module):
    """Images [b, c, h, w] -> features [b, 2048, h / 16, w / 16]: the adapter on every pixel, then
    ResNet-50 with a strided first block.
    """

    def __init__(self):
        super().__init__()
        self.spectral_adapter = spectral_adapter()
        self.resnet = nn.Sequential(
            OrderedDict(resnet_layers(50, Bottleneck(128, 256, 2, channels=256)))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.resnet(self.spectral_adapter(x[:, None])[:, :, 0])


MIT_WIDTHS = {
    "b0": (32, 64, 160, 256),
    **dict.fromkeys(("b1", "b2", "b3", "b4", "b5"), (64, 128, 320, 512)),
}
MIT_DEPTHS = {
    "b0": (2, 2, 2, 2),
    "b1": (2, 2, 2, 2),
    "b2": (3, 4, 6, 3),
    "b3": (3, 4, 18, 3),
    "b4": (3, 8, 27, 3),
    "b5": (3, 6, 40, 3),
}


def as_tokens(image: torch.Tensor) -> torch.Tensor:
    """[b, d, h, w] -> [b, h w, d]"""
    return image.flatten(2).transpose(1, 2)


def as_image(tokens: torch.Tensor, rows: int) -> torch.Tensor:
    """[b, h w, d] -> [b, d, h, w]"""
    return tokens.transpose(1, 2).unflatten(2, (rows, -1))


class OverlapPatchEmbed(nn.Module):
    """A strided convolution whose windows overlap, then LayerNorm: image -> image."""

    def __init__(self, channels: int, width: int, kernel: int, stride: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, width, kernel, stride, kernel // 2)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.proj(x).movedim(1, -1)).movedim(-1, 1)


class ReducedAttention(nn.Module):
    """Queries of every token, keys and values of blocks of sr x sr tokens; rows of `kv` are ordered
    (k, v), then head, then channel.
    """

    def __init__(self, width: int, heads: int, sr: int):
        super().__init__()
        self.heads, self.ratio = heads, sr
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        if sr > 1:
            self.sr = nn.Conv2d(width, width, sr, sr)
            self.norm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor, rows: int) -> torch.Tensor:
        few = self.norm(as_tokens(self.sr(as_image(x, rows)))) if self.ratio > 1 else x
        q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(few).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))


class DWConv(nn.Module):
    """A depthwise 3 x 3 convolution of tokens."""

    def __init__(self, width: int):
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 3, 1, 1, groups=width)

    def forward(self, x: torch.Tensor, rows: int) -> torch.Tensor:
        return as_tokens(self.dwconv(as_image(x, rows)))


class MixFFN(nn.Module):
    """Dense, depthwise convolution, exact GELU, dense."""

    def __init__(self, width: int):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.dwconv = DWConv(4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor, rows: int) -> torch.Tensor:
        return self.fc2(nn.functional.gelu(self.dwconv(self.fc1(x), rows)))


class MixBlock(nn.Module):
    """Pre-norm block of SegFormer."""

    def __init__(self, width: int, heads: int, sr: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = ReducedAttention(width, heads, sr)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MixFFN(width)

    def forward(self, x: torch.Tensor, rows: int) -> torch.Tensor:
        x = x + self.attn(self.norm1(x), rows)
        return x + self.mlp(self.norm2(x), rows)


class MixTransformer(nn.Module):
    """Images [b, c, h, w] -> features [b, d, h / 32, w / 32] of the last stage."""

    def __init__(self, size: str, channels: int):
        super().__init__()
        widths, depths = MIT_WIDTHS[size], MIT_DEPTHS[size]
        for i, (width, heads, sr) in enumerate(
            zip(widths, (1, 2, 5, 8), (8, 4, 2, 1), strict=True), start=1
        ):
            setattr(
                self,
                f"patch_embed{i}",
                OverlapPatchEmbed(channels, width, *((7, 4) if i == 1 else (3, 2))),
            )
            setattr(
                self,
                f"block{i}",
                nn.ModuleList(MixBlock(width, heads, sr) for _ in range(depths[i - 1])),
            )
            setattr(self, f"norm{i}", nn.LayerNorm(width, eps=1e-6))
            channels = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i in range(1, 5):
            x = getattr(self, f"patch_embed{i}")(x)
            rows, tokens = x.shape[2], as_tokens(x)
            for block in getattr(self, f"block{i}"):
                tokens = block(tokens, rows)
            x = as_image(getattr(self, f"norm{i}")(tokens), rows)
        return x


def load(twin: nn.Module, exported: dict[str, np.ndarray]) -> nn.Module:
    """The twin with exported weights, each of which it must have got: on the meta device it could
    not compute otherwise.
    """
    weights = {name: torch.from_numpy(np.array(array)) for name, array in exported.items()}
    twin.to("meta").load_state_dict(weights, strict=True, assign=True)
    return twin


def features(twin: nn.Module, view: np.ndarray) -> np.ndarray:
    """[b, H, W, c] -> [b, h, w, d]: what a twin makes of images, in its mode."""
    with torch.no_grad():
        return twin(torch.from_numpy(view).movedim(-1, 1)).movedim(1, -1).numpy()


def multiply_adds(twin: nn.Module, *shape: int) -> int:
    """PyTorch's own count of the multiply-adds of convolutions and matrix products, for one image
    of this shape; for twins on the meta device.
    """
    with FlopCounterMode(display=False) as counter:
        twin(torch.empty(1, *shape, device="meta"))
    return counter.get_total_flops() // 2
