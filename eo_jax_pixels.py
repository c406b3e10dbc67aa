"""The pixel encoders of eo_jax in PyTorch. Copy this file into your project; it needs torch and
numpy. Weights come from `python -m eo_jax.export`, and `eo_jax_torch.load_encoder` loads them.

They take normalised images [b, c, h, w] and give one feature per window, [b, d, h / window, w /
window]; pooled features are their mean over rows and columns.
"""

import torch
from torch import nn
from torch.nn import functional


def windows(image, window):
    """[b, c, h, w] -> [b * windows, c, window, window], windows row by row."""
    b, c, h, w = image.shape
    if h % window or w % window:
        raise ValueError(f"image: {h} x {w} pixels, expected multiples of the window, {window}")
    cut = image.reshape(b, c, h // window, window, w // window, window)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(-1, c, window, window)


def as_image(features, image, window):
    """[b * windows, d] -> [b, d, h / window, w / window]."""
    b, _, h, w = image.shape
    return features.reshape(b, h // window, w // window, -1).permute(0, 3, 1, 2)


def mean_of_windows(features, image, valid, window):
    """[pixels, d], window by window -> [b, d, h / window, w / window], of the pixels with data."""
    mask = torch.ones_like(image[:, :1]) if valid is None else valid[:, None].to(image)
    weight = windows(mask, window).flatten(1)[..., None]
    mean = (features.reshape(*weight.shape[:2], -1) * weight).sum(1) / weight.sum(1).clamp(min=1)
    return as_image(mean, image, window)


class SpectralCNN(nn.Module):
    """Convolutions along the spectrum of each pixel (dims=1), whose features are averaged over the
    window, or over spectrum, rows and columns of a window (dims=3).
    """

    def __init__(self, bands, window=1, dims=1, width=128, layers=4, kernel=7):
        super().__init__()
        self.window, self.dims, self.layers = window, dims, layers
        positions, side, channels = bands, window if dims == 3 else 1, 1
        for i in range(layers):
            out, space = width >> (layers - 1 - i), 3 if side > 1 else 1
            size, pad = (kernel, space, space), (kernel // 2, 0, 0)
            conv = nn.Conv3d(channels, out, size, (2, 1, 1), pad, bias=False)
            self.add_module(f"conv{i}", conv)
            self.add_module(f"norm{i}", nn.BatchNorm3d(out))
            positions, side, channels = (positions + 1) // 2, side - space + 1, out
        self.embed = nn.Linear(positions * side**2 * width, width)
        self.embed_norm = nn.BatchNorm1d(width)

    def forward(self, image, valid=None):
        """image: 0 without data. valid: bool [b, h, w], what counts in means; None for all."""
        cut = windows(image, self.window)
        if self.dims == 3:
            return as_image(self._features(cut), image, self.window)
        pixels = cut.flatten(2).transpose(1, 2).reshape(-1, cut.shape[1], 1, 1)
        return mean_of_windows(self._features(pixels), image, valid, self.window)

    def _features(self, cubes):
        x = cubes[:, None]
        for i in range(self.layers):
            x = functional.relu(getattr(self, f"norm{i}")(getattr(self, f"conv{i}")(x)))
        flat = x.movedim(1, -1).flatten(1)  # band, row, column, channel
        return functional.relu(self.embed_norm(self.embed(flat)))


class SpectralMLP(nn.Module):
    """Dense layers on the spectrum of each pixel, averaged over the window."""

    def __init__(self, bands, window=1, width=64, hidden=256, layers=2):
        super().__init__()
        self.window, self.layers = window, layers
        for i, inputs in enumerate([bands] + [hidden] * (layers - 1)):
            self.add_module(f"dense{i}", nn.Linear(inputs, hidden))
            self.add_module(f"norm{i}", nn.BatchNorm1d(hidden))
        self.embed = nn.Linear(hidden, width)

    def forward(self, image, valid=None):
        x = windows(image, self.window).movedim(1, -1).flatten(0, 2)
        for i in range(self.layers):
            x = functional.gelu(getattr(self, f"norm{i}")(getattr(self, f"dense{i}")(x)))
        return mean_of_windows(self.embed(x), image, valid, self.window)


class Attention(nn.Module):
    """Multi-head self-attention; rows of qkv are q, k, v, and inside each head by head."""

    def __init__(self, width, heads):
        super().__init__()
        self.num_heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(attended.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A pre-norm transformer block with the exact GELU."""

    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        layers = {"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)}
        self.mlp = nn.ModuleDict(layers)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp["fc2"](functional.gelu(self.mlp["fc1"](self.norm2(x))))


def positions(tokens, width):
    """[tokens, width], sines and cosines: the place along the spectrum, then that of row 0."""
    frequency = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angle = torch.arange(tokens, dtype=torch.float64)[:, None] * frequency
    row = torch.cat([torch.zeros_like(angle), torch.ones_like(angle)], 1)
    return torch.cat([angle.sin(), angle.cos(), row], 1).float()


class SpectralTransformer(nn.Module):
    """One token per group of neighbouring bands, with their values in all pixels of the window; a
    feature is the mean of the normalised tokens without the class token.
    """

    def __init__(self, window=1, bands_per_token=8, width=96, depth=6, heads=3):
        super().__init__()
        self.window, self.group = window, bands_per_token
        self.embed = nn.Linear(bands_per_token * window**2, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, image):
        """image: 0 where there is no data."""
        cut = windows(image, self.window).flatten(2)  # [windows, c, pixels]
        cut = functional.pad(cut, (0, 0, 0, -cut.shape[1] % self.group))
        # Of a token: pixel by pixel, and inside each its bands.
        groups = cut.unflatten(1, (-1, self.group)).transpose(2, 3).flatten(2)
        x = self.embed(groups)
        x = x + positions(x.shape[1], x.shape[2]).to(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        return as_image(self.norm(self.blocks(x))[:, 1:].mean(1), image, self.window)
