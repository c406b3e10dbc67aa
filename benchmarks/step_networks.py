"""PyTorch twins of our networks, for `step_twins`: simple and fast. Modules have our names, so that
weights can be copied by rules.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eo_jax.experiment import Experiment
from eo_jax.models.encoder import Encoder
from eo_jax.models.layers.position_embedding import sincos_2d
from eo_jax.models.trunks.resnet import BlockShape

# (kernel, stride, channels in, channels out) of the spectral adapter
_LAYERS = ((7, 5, 1, 32), (7, 5, 32, 64), (5, 3, 64, 128))


def encoder_of(experiment: Experiment, encoder: Encoder) -> nn.Module:
    """The twin of an encoder: views [b, c, H, W] -> pooled features [b, d]; `layout` is the memory
    layout of its views.
    """
    return (
        ViT(encoder, {size for _, size in experiment.views.values()})
        if encoder.kind == "tokens"
        else ResNet(encoder)
    )


class Attention(nn.Module):
    """Multi-head self-attention, one fused qkv layer."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two layers with the exact GELU between them."""

    def __init__(self, width: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attention, self.mlp = Attention(width, heads), MLP(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Trunk(nn.Module):
    """Tokens [b, n, d] -> [b, 1 + n, d], the class token first."""

    def __init__(self, width: int, depth: int, heads: int):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.blocks(self.prefixed(x)))

    def prefixed(self, x: Tensor) -> Tensor:
        """[b, 1 + n, d]"""
        return torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)


class ViT(nn.Module):
    """Views [b, c, H, W] -> class token [b, d]; patch embedding by a convolution, as in timm."""

    layout = torch.contiguous_format

    def __init__(self, encoder: Encoder, sizes: Iterable[int]):
        super().__init__()
        patch, bands, width = encoder.patch, len(encoder.sensor.bands), encoder.width
        self.stem = nn.ModuleDict({"embed": nn.Conv2d(bands, width, patch, patch)})
        self.trunk = Trunk(width, encoder.layers, encoder.trunk.heads)
        for size in sizes:
            self.register_buffer(
                f"positions_{size // patch}", positions_of(width, size // patch), persistent=False
            )

    def forward(self, view: Tensor) -> Tensor:
        return self.trunk.norm(self.trunk.blocks(self.tokens(view)))[:, 0]

    def tokens(
        self, view: Tensor, masked: Tensor | None = None, mask_token: Tensor | None = None
    ) -> Tensor:
        """The input of the first block, [b, 1 + n, d]; the mask token replaces `masked` patches
        [b, n].
        """
        grid = self.stem["embed"](view)
        patches = grid.flatten(2).transpose(1, 2)
        if masked is not None:
            patches = torch.where(masked[..., None], mask_token.to(patches.dtype), patches)
        return self.trunk.prefixed(patches + getattr(self, f"positions_{grid.shape[-1]}"))


def positions_of(width: int, side: int) -> Tensor:
    return torch.tensor(sincos_2d(width, side, side))


class SpectralAdapter(nn.Module):
    """Pixels [p, c] -> [p, 128]: each convolution along the bands as windows and one product;
    compiled, the fastest of four variants.
    """

    def __init__(self):
        super().__init__()
        for i, (kernel, _, fan_in, fan_out) in enumerate(_LAYERS):
            self.add_module(f"conv{i}", nn.Linear(fan_in * kernel, fan_out))
            self.add_module(f"norm{i}", nn.BatchNorm1d(fan_out))

    def forward(self, x: Tensor) -> Tensor:
        x = x[..., None]
        for i, (kernel, stride, _, _) in enumerate(_LAYERS):
            windows = F.pad(x, (0, 0, 1, 1)).unfold(1, kernel, stride)  # [p, s, i, k]
            flat = getattr(self, f"conv{i}")(windows.flatten(2).flatten(0, 1))
            x = torch.relu(getattr(self, f"norm{i}")(flat)).unflatten(0, windows.shape[:2])
        return x.mean(1)


class SpectralImage(nn.Module):
    """Images [b, c, H, W] -> [b, 128, H, W]: the same by 3-D convolutions, as in SpectralEarth's
    code.
    """

    def __init__(self):
        super().__init__()
        for i, (kernel, stride, fan_in, fan_out) in enumerate(_LAYERS):
            self.add_module(
                f"conv{i}", nn.Conv3d(fan_in, fan_out, (kernel, 1, 1), (stride, 1, 1), (1, 0, 0))
            )
            self.add_module(f"norm{i}", nn.BatchNorm3d(fan_out))

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None]
        for i in range(len(_LAYERS)):
            x = torch.relu(getattr(self, f"norm{i}")(getattr(self, f"conv{i}")(x)))
        return x.mean(2)


class ResNet(nn.Module):
    """Views [b, c, H, W] -> mean [b, d] over the cells after the last block (He et al. 2016, arXiv
    1512.03385; strided in the 3 x 3 convolution).
    """

    layout = torch.channels_last  # the faster one, on CPU and GPU

    def __init__(self, encoder: Encoder):
        super().__init__()
        channels = encoder.stem.channels(encoder.sensor)
        self.stem = nn.ModuleDict(
            {
                "conv": nn.Conv2d(len(encoder.sensor.bands), channels, 7, 2, 3, bias=False),
                "norm": nn.BatchNorm2d(channels),
            }
        )

        def named(prefix, modules, first):
            return OrderedDict((f"{prefix}{i}", module) for i, module in enumerate(modules, first))

        stages = [
            nn.Sequential(named("block", map(ResidualBlock, shapes), 0))
            for shapes in encoder.trunk.stages(channels)
        ]
        self.trunk = nn.Sequential(named("layer", stages, 1))
        self.to(memory_format=self.layout)

    def forward(self, view: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem["norm"](self.stem["conv"](view))), 3, 2, 1)
        return self.trunk(x).mean((2, 3))


class ResidualBlock(nn.Module):
    """Convolutions with BatchNorm and ReLU, a shortcut, and a ReLU of the sum."""

    def __init__(self, shape: BlockShape):
        super().__init__()
        widths = [shape.channels_in, *(convolution.channels for convolution in shape.convolutions)]
        for i, ((fan_in, fan_out), conv) in enumerate(
            zip(itertools.pairwise(widths), shape.convolutions, strict=True), start=1
        ):
            self.add_module(
                f"conv{i}",
                nn.Conv2d(fan_in, fan_out, conv.kernel, conv.stride, conv.kernel // 2, bias=False),
            )
            self.add_module(f"norm{i}", nn.BatchNorm2d(fan_out))
        if shape.projects:
            self.shortcut_conv = nn.Conv2d(
                shape.channels_in, shape.channels, 1, shape.stride, bias=False
            )
            self.shortcut_norm = nn.BatchNorm2d(shape.channels)
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        inside, last = x, len(self.shape.convolutions)
        for i in range(1, last + 1):
            inside = getattr(self, f"norm{i}")(getattr(self, f"conv{i}")(inside))
            inside = inside if i == last else F.relu(inside)
        return F.relu(
            inside + (self.shortcut_norm(self.shortcut_conv(x)) if self.shape.projects else x)
        )


class Head(nn.Module):
    """Linear layers with BatchNorm (or none) and ReLU between; see `eo_jax.models.heads.MLP`."""

    def __init__(self, widths: Sequence[int], hidden_norm: str = "batch", end: str = "linear"):
        super().__init__()
        pairs = list(itertools.pairwise(widths))
        self.hidden = nn.ModuleList(
            nn.Linear(fan_in, fan_out, bias=hidden_norm == "none") for fan_in, fan_out in pairs[:-1]
        )
        self.norms = nn.ModuleList(
            nn.BatchNorm1d(width) if hidden_norm == "batch" else nn.Identity()
            for width in widths[1:-1]
        )
        self.last = nn.Linear(*pairs[-1], bias=end == "linear")
        self.last_norm = (
            nn.BatchNorm1d(widths[-1], affine=end == "norm")
            if end in ("norm", "plain_norm")
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer, norm in zip(self.hidden, self.norms, strict=True):
            x = F.relu(norm(layer(x)))
        return self.last_norm(self.last(x).float())
