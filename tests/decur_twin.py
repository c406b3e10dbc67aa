"""DeCUR's ResNet with deformable attention (RDA; arXiv 2309.05300) in PyTorch, written from what
its released code computes, with the names of the weights in its files.

The attention is DAT's (arXiv 2201.00520) as that code sets it up: offsets without a bound, points
clipped to the image, and a relative position bias sampled from a table.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import grid_sample
from torch_twin import ResNet


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of an image."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


class DeformableAttention(nn.Module):
    """[b, c, h, w] -> [b, c, h, w]; positions are (y, x), -1 and 1 the centres of the first and the
    last cell.

    Args:
        side: in cells, of the images that the table is for.
    """

    def __init__(self, channels: int, heads: int, groups: int, kernel: int, stride: int, side: int):
        super().__init__()
        self.heads, self.groups = heads, groups
        width = channels // groups
        self.conv_offset = nn.Sequential(
            nn.Conv2d(width, width, kernel, stride, kernel // 2, groups=width),
            ChannelNorm(width),
            nn.GELU(),
            nn.Conv2d(width, 2, 1, bias=False),
        )
        self.proj_q, self.proj_k, self.proj_v, self.proj_out = (
            nn.Conv2d(channels, channels, 1) for _ in range(4)
        )
        self.rpe_table = nn.Parameter(torch.zeros(heads, 2 * side - 1, 2 * side - 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, c, h, w = x.shape
        q = self.proj_q(x)
        points = self.points(q)
        images = x.reshape(b * self.groups, -1, h, w)
        sampled = grid_sample(images, points[:, None].flip(-1), align_corners=True)
        sampled = sampled.reshape(b, c, 1, -1)
        q, k, v = (
            part.reshape(b, self.heads, c // self.heads, -1)
            for part in (q, self.proj_k(sampled), self.proj_v(sampled))
        )
        logits = torch.einsum("bhcm,bhcn->bhmn", q, k) * (c // self.heads) ** -0.5
        shares = (logits + self.bias(points, h, w)).softmax(-1)
        attended = torch.einsum("bhmn,bhcn->bhcm", shares, v)
        return self.proj_out(attended.reshape(b, c, h, w))

    def points(self, q: torch.Tensor) -> torch.Tensor:
        """Positions [b g, p, 2]."""
        offsets = self.conv_offset(q.reshape(len(q) * self.groups, -1, *q.shape[2:]))
        starts = [(torch.arange(n) + 0.5) / (n - 1) * 2 - 1 for n in offsets.shape[2:]]
        moved = offsets + torch.stack(torch.meshgrid(*starts, indexing="ij"))
        return moved.clamp(-1, 1).flatten(2).transpose(1, 2)

    def bias(self, points: torch.Tensor, h: int, w: int) -> torch.Tensor:
        """[b, heads, h w, p]: the table at half the way from each point to each cell."""
        cells = torch.cartesian_prod(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w))
        way = (cells[None, :, None] - points[:, None]) / 2
        tables = self.rpe_table.unflatten(0, (self.groups, -1))
        tables = tables.repeat(len(points) // self.groups, 1, 1, 1)
        found = grid_sample(tables, way.flip(-1), align_corners=True)
        return found.reshape(-1, self.heads, h * w, points.shape[1])


class RdaResNet(nn.Module):
    """Images [b, c, h, w] -> features [b, d, h / 32, w / 32]: the attentions are beside the ResNet,
    and each is added to the output of its stage.
    """

    def __init__(self, depth: int, channels: int):
        super().__init__()
        self.backbone = ResNet(depth, channels)
        wide = 4 if depth >= 50 else 1
        for stage, width, kernel, stride, side in ((3, 256, 5, 2, 14), (4, 512, 3, 1, 7)):
            heads = width * wide // 128
            attention = DeformableAttention(
                width * wide, heads, max(1, heads // 2), kernel, stride, side
            )
            setattr(self, f"da1_l{stage}", attention)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        net = self.backbone
        x = net.maxpool(torch.relu(net.bn1(net.conv1(x))))
        x = net.layer3(net.layer2(net.layer1(x)))
        x = net.layer4(x + self.da1_l3(x))
        return x + self.da1_l4(x)
