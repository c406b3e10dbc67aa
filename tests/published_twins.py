"""Further published encoders in PyTorch, written from their descriptions, with the names that their
weights have in files: timm's VisionTransformer with registers and layer scale, DINOv2, BEiT and
data2vec (arXiv 2106.08254, 2202.03555), and Hugging Face's ViT, DINOv2, data2vec and SegFormer.

Each gives normalised tokens [b, prefix + n, d], the class token first, then any registers;
SegFormer an image of features. None has a classification head.
"""

from __future__ import annotations

import torch
from torch import nn
from torch_twin import (
    MIT_DEPTHS,
    MIT_WIDTHS,
    MLP,
    Attention,
    OverlapPatchEmbed,
    PatchEmbed,
    as_image,
    as_tokens,
)


def named(**parts: nn.Module | nn.Parameter) -> nn.Module:
    """A module that holds others, for the names alone."""
    module = nn.Module()
    for name, part in parts.items():
        setattr(module, name, part)
    return module


def zeros(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape))


def repeated(token: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """[1, k, d] -> [b, k, d]"""
    return token.expand(len(x), -1, -1)


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, bias: torch.Tensor | float = 0.0
) -> torch.Tensor:
    """[b, n, d], with a number per head and pair of tokens added to the logits."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    logits = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5 + bias
    return (logits.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)


def norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=1e-6)


# --- timm and facebookresearch


class ScaledBlock(nn.Module):
    """A pre-norm block whose branches have a learned scale per channel: `ls1.gamma`."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.norm2 = norm(width), norm(width)
        self.attn, self.mlp = Attention(width, heads), MLP(width)
        self.ls1, self.ls2 = named(gamma=zeros(width)), named(gamma=zeros(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.ls1.gamma * self.attn(self.norm1(x))
        return x + self.ls2.gamma * self.mlp(self.norm2(x))


class TimmRegisters(nn.Module):
    """timm's `vit_*_reg4_dinov2`: positions of patches alone, then class token and registers before
    them.
    """

    def __init__(
        self, channels: int, width: int, depth: int, heads: int, patch: int, side: int, registers=4
    ):
        super().__init__()
        self.cls_token, self.reg_token = zeros(1, 1, width), zeros(1, registers, width)
        self.pos_embed = zeros(1, side**2, width)
        self.patch_embed = PatchEmbed(channels, width, patch)
        self.blocks = nn.Sequential(*(ScaledBlock(width, heads) for _ in range(depth)))
        self.norm = norm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed(x) + self.pos_embed
        x = torch.cat([repeated(self.cls_token, x), repeated(self.reg_token, x), x], dim=1)
        return self.norm(self.blocks(x))


class TimmScaled(nn.Module):
    """timm's `vit_*_dinov2`, and facebookresearch's DINOv2 without its mask token: layer scale, and
    a position for the class token.
    """

    def __init__(self, channels: int, width: int, depth: int, heads: int, patch: int, side: int):
        super().__init__()
        self.cls_token, self.pos_embed = zeros(1, 1, width), zeros(1, 1 + side**2, width)
        self.patch_embed = PatchEmbed(channels, width, patch)
        self.blocks = nn.Sequential(*(ScaledBlock(width, heads) for _ in range(depth)))
        self.norm = norm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed(x)
        return self.norm(
            self.blocks(torch.cat([repeated(self.cls_token, x), x], dim=1) + self.pos_embed)
        )


# --- BEiT


def relative_index(side: int) -> torch.Tensor:
    """[1 + n, 1 + n]: the row of BEiT's table for each query and key, the class token first."""
    n, offsets = side**2, 2 * side - 1
    index = torch.zeros(1 + n, 1 + n, dtype=torch.long)
    for i in range(n):
        for j in range(n):
            rows, columns = i // side - j // side, i % side - j % side
            index[1 + i, 1 + j] = (rows + side - 1) * offsets + columns + side - 1
    last = offsets**2 + 3
    index[0, :], index[:, 0] = last - 3, last - 2
    index[0, 0] = last - 1
    return index


def relative_bias(table: torch.Tensor, side: int) -> torch.Tensor:
    """[1, heads, 1 + n, 1 + n]"""
    return table[relative_index(side)].permute(2, 0, 1)[None]


def bias_table(side: int, heads: int) -> nn.Parameter:
    return zeros((2 * side - 1) ** 2 + 3, heads)


class BeitAttention(nn.Module):
    """Keys have no bias, so the three are no vector of the fused layer."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias, self.v_bias = zeros(width), zeros(width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.proj(attend(q + self.q_bias, k, v + self.v_bias, self.heads, bias))


class BeitBlock(nn.Module):
    """Pre-norm block with `gamma_1` and `gamma_2`."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.norm2 = norm(width), norm(width)
        self.attn, self.mlp = BeitAttention(width, heads), MLP(width)
        self.gamma_1, self.gamma_2 = zeros(width), zeros(width)

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        x = x + self.gamma_1 * self.attn(self.norm1(x), bias)
        return x + self.gamma_2 * self.mlp(self.norm2(x))


class Beit(nn.Module):
    """BEiT without absolute positions: one table for all blocks."""

    def __init__(self, channels: int, width: int, depth: int, heads: int, patch: int, side: int):
        super().__init__()
        self.side, self.cls_token = side, zeros(1, 1, width)
        self.patch_embed = PatchEmbed(channels, width, patch)
        self.blocks = nn.ModuleList(BeitBlock(width, heads) for _ in range(depth))
        self.norm = norm(width)
        self.add_tables(heads)

    def add_tables(self, heads: int) -> None:
        self.rel_pos_bias = named(relative_position_bias_table=bias_table(self.side, heads))

    def table(self, block: BeitBlock) -> torch.Tensor:
        return self.rel_pos_bias.relative_position_bias_table

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed(x)
        x = torch.cat([repeated(self.cls_token, x), x], dim=1)
        for block in self.blocks:
            x = block(x, relative_bias(self.table(block), self.side))
        return self.norm(x)


class BeitPerBlock(Beit):
    """timm's Beit: a table in each block."""

    def add_tables(self, heads: int) -> None:
        for block in self.blocks:
            block.attn.relative_position_bias_table = bias_table(self.side, heads)

    def table(self, block: BeitBlock) -> torch.Tensor:
        return block.attn.relative_position_bias_table


# --- Hugging Face


class HuggingFaceAttention(nn.Module):
    """Three layers beside each other; `output.dense` behind them."""

    def __init__(self, width: int, heads: int, key_bias: bool):
        super().__init__()
        self.heads = heads
        self.attention = named(
            query=nn.Linear(width, width),
            key=nn.Linear(width, width, bias=key_bias),
            value=nn.Linear(width, width),
        )
        self.output = named(dense=nn.Linear(width, width))

    def forward(self, x: torch.Tensor, bias: torch.Tensor | float) -> torch.Tensor:
        layers = self.attention
        mixed = attend(layers.query(x), layers.key(x), layers.value(x), self.heads, bias)
        return self.output.dense(mixed)


class HuggingFaceBlock(nn.Module):
    """ViT's."""

    def __init__(self, width: int, heads: int, key_bias: bool = True):
        super().__init__()
        self.layernorm_before, self.layernorm_after = norm(width), norm(width)
        self.attention = HuggingFaceAttention(width, heads, key_bias)
        self.intermediate = named(dense=nn.Linear(width, 4 * width))
        self.output = named(dense=nn.Linear(4 * width, width))

    def scales(self) -> tuple[torch.Tensor | float, torch.Tensor | float]:
        return 1.0, 1.0

    def forward(self, x: torch.Tensor, bias: torch.Tensor | float) -> torch.Tensor:
        first, second = self.scales()
        x = x + first * self.attention(self.layernorm_before(x), bias)
        hidden = nn.functional.gelu(self.intermediate.dense(self.layernorm_after(x)))
        return x + second * self.output.dense(hidden)


class Data2VecBlock(HuggingFaceBlock):
    """With `lambda_1` and `lambda_2`, and keys without a bias."""

    def __init__(self, width: int, heads: int):
        super().__init__(width, heads, key_bias=False)
        self.lambda_1, self.lambda_2 = zeros(width), zeros(width)

    def scales(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.lambda_1, self.lambda_2


class Dinov2Block(nn.Module):
    """The attention of ViT, everything else as DINOv2 names it."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.norm2 = norm(width), norm(width)
        self.attention = HuggingFaceAttention(width, heads, key_bias=True)
        self.layer_scale1 = named(lambda1=zeros(width))
        self.layer_scale2 = named(lambda1=zeros(width))
        self.mlp = MLP(width)

    def forward(self, x: torch.Tensor, bias: torch.Tensor | float) -> torch.Tensor:
        x = x + self.layer_scale1.lambda1 * self.attention(self.norm1(x), bias)
        return x + self.layer_scale2.lambda1 * self.mlp(self.norm2(x))


class HuggingFaceEncoder(nn.Module):
    """What the three have in common; positions include the class token's."""

    block: type[nn.Module] = HuggingFaceBlock

    def __init__(self, channels: int, width: int, depth: int, heads: int, patch: int, side: int):
        super().__init__()
        self.embeddings = named(
            cls_token=zeros(1, 1, width),
            patch_embeddings=named(projection=nn.Conv2d(channels, width, patch, patch)),
        )
        self.encoder = named(layer=nn.ModuleList(self.block(width, heads) for _ in range(depth)))
        self.layernorm = norm(width)
        self.side = side
        self.add_positions(width, heads)

    def add_positions(self, width: int, heads: int) -> None:
        self.embeddings.position_embeddings = zeros(1, 1 + self.side**2, width)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        x = as_tokens(self.embeddings.patch_embeddings.projection(x))
        x = torch.cat([repeated(self.embeddings.cls_token, x), x], dim=1)
        return x + self.embeddings.position_embeddings

    def bias(self) -> torch.Tensor | float:
        return 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        for block in self.encoder.layer:
            x = block(x, self.bias())
        return self.layernorm(x)


class HuggingFaceViT(HuggingFaceEncoder):
    """ViTModel without its pooler."""


class HuggingFaceDinov2(HuggingFaceEncoder):
    """Dinov2Model without its mask token."""

    block = Dinov2Block


class HuggingFaceDinov2Registers(HuggingFaceDinov2):
    """Dinov2WithRegistersModel: registers have no positions."""

    def add_positions(self, width: int, heads: int) -> None:
        super().add_positions(width, heads)
        self.embeddings.register_tokens = zeros(1, 4, width)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        x = super().embed(x)
        return torch.cat([x[:, :1], repeated(self.embeddings.register_tokens, x), x[:, 1:]], dim=1)


class HuggingFaceData2Vec(HuggingFaceEncoder):
    """Data2VecVisionModel with one table for all blocks, and no other positions."""

    block = Data2VecBlock

    def add_positions(self, width: int, heads: int) -> None:
        self.encoder.relative_position_bias = named(
            relative_position_bias_table=bias_table(self.side, heads)
        )

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        x = as_tokens(self.embeddings.patch_embeddings.projection(x))
        return torch.cat([repeated(self.embeddings.cls_token, x), x], dim=1)

    def bias(self) -> torch.Tensor:
        return relative_bias(
            self.encoder.relative_position_bias.relative_position_bias_table, self.side
        )


class HuggingFaceMixAttention(nn.Module):
    """Keys and values of blocks of sr x sr tokens, in layers of their own."""

    def __init__(self, width: int, heads: int, sr: int):
        super().__init__()
        self.heads, self.ratio = heads, sr
        layers = {name: nn.Linear(width, width) for name in ("query", "key", "value")}
        if sr > 1:
            layers |= {"sr": nn.Conv2d(width, width, sr, sr), "layer_norm": nn.LayerNorm(width)}
        self.self = named(**layers)
        self.output = named(dense=nn.Linear(width, width))

    def forward(self, x: torch.Tensor, rows: int) -> torch.Tensor:
        layers = self.self
        few = x
        if self.ratio > 1:
            few = layers.layer_norm(as_tokens(layers.sr(as_image(x, rows))))
        mixed = attend(layers.query(x), layers.key(few), layers.value(few), self.heads)
        return self.output.dense(mixed)


class HuggingFaceMixBlock(nn.Module):
    """SegFormer's block. `epsilon`: NVlabs has 1e-6; Hugging Face's class PyTorch's 1e-5, whatever
    its config says.
    """

    def __init__(self, width: int, heads: int, sr: int, epsilon: float):
        super().__init__()
        self.layer_norm_1 = nn.LayerNorm(width, eps=epsilon)
        self.attention = HuggingFaceMixAttention(width, heads, sr)
        self.layer_norm_2 = nn.LayerNorm(width, eps=epsilon)
        wide = 4 * width
        self.mlp = named(
            dense1=nn.Linear(width, wide),
            dwconv=named(dwconv=nn.Conv2d(wide, wide, 3, 1, 1, groups=wide)),
            dense2=nn.Linear(wide, width),
        )

    def forward(self, x: torch.Tensor, rows: int) -> torch.Tensor:
        x = x + self.attention(self.layer_norm_1(x), rows)
        hidden = as_image(self.mlp.dense1(self.layer_norm_2(x)), rows)
        hidden = nn.functional.gelu(as_tokens(self.mlp.dwconv.dwconv(hidden)))
        return x + self.mlp.dense2(hidden)


class HuggingFaceSegformer(nn.Module):
    """SegformerModel: images [b, c, h, w] -> features [b, d, h / 32, w / 32] of the last stage."""

    def __init__(self, size: str, channels: int, epsilon: float):
        super().__init__()
        widths, embeds, blocks = MIT_WIDTHS[size], [], []
        for stage, (width, heads, sr) in enumerate(
            zip(widths, (1, 2, 5, 8), (8, 4, 2, 1), strict=True)
        ):
            embed = OverlapPatchEmbed(channels, width, *((7, 4) if stage == 0 else (3, 2)))
            embeds.append(named(proj=embed.proj, layer_norm=embed.norm))
            blocks.append(
                nn.ModuleList(
                    HuggingFaceMixBlock(width, heads, sr, epsilon)
                    for _ in range(MIT_DEPTHS[size][stage])
                )
            )
            channels = width
        self.encoder = named(
            patch_embeddings=nn.ModuleList(embeds),
            block=nn.ModuleList(blocks),
            layer_norm=nn.ModuleList(nn.LayerNorm(width, eps=epsilon) for width in widths),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stages = self.encoder
        for embed, blocks, last in zip(
            stages.patch_embeddings, stages.block, stages.layer_norm, strict=True
        ):
            x = embed.proj(x)
            rows, tokens = x.shape[2], embed.layer_norm(as_tokens(x))
            for block in blocks:
                tokens = block(tokens, rows)
            x = as_image(last(tokens), rows)
        return x
