"""PyTorch twins of the train steps that `benchmarks.step` measures: the same mathematics and the same weights, written plainly and for speed.

Written from the papers: MAE (arXiv 2111.06377) with SpectralEarth's adapter (arXiv 2408.08447), DINO (arXiv 2104.14294), Barlow Twins
(arXiv 2103.03230). A twin knows nothing of no-data: every value of a view counts. Modules bear our names, so that weights are copied by rule.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.step_resnet import ResNet
from eo_jax.build import Experiment
from eo_jax.models.positions import sincos_2d

# (kernel, stride, channels in, channels out) of the spectral adapter
_LAYERS = ((7, 5, 1, 32), (7, 5, 32, 64), (5, 3, 64, 128))


class Peer:
    """A twin in training: forward, backward, AdamW, teacher.

    Args:
        module: its parameters are trained; `after_step()` follows each update.
        loss: what makes a scalar of the inputs: the module, or what torch.compile made of it.
        inputs: on the device, the same for every step.
        optim: ours, a constant AdamW without clipping.
    """

    def __init__(self, module: Twin, loss: Callable[..., Tensor], inputs: Sequence[Tensor], optim: Any):
        self._module, self._loss, self._inputs = module, loss, inputs
        self._device = inputs[0].device.type
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        betas = (optim.beta1, optim.beta2)
        self._optimizer = torch.optim.AdamW(trained, optim.lr, betas, optim.epsilon, optim.weight_decay, fused=True)

    def run(self, steps: int) -> float:
        """So many steps, to their end; the last one's loss."""
        for _ in range(steps):
            loss = self._step()
        return loss.item()  # waits for the device, whose work is done in order

    def _step(self) -> Tensor:
        self._optimizer.zero_grad()
        with torch.autocast(self._device, torch.bfloat16, enabled=self._device == "cuda"):
            loss = self._loss(*self._inputs)
        loss.backward()
        self._optimizer.step()
        self._module.after_step()
        return loss.detach()


def make(objective: str, way: str, experiment: Experiment, params: Mapping[str, Any], inputs: Mapping[str, np.ndarray], device: str) -> Peer:
    """A twin with these weights.

    Args:
        objective: a key of `TWINS`.
        way: "eager", "compiled" (torch.compile) or, MAE only, "all pixels": the adapter on every pixel, as SpectralEarth's code has it.
        params: ours; under "teacher" the teacher's.
        inputs: {"global": [b, v, H, W, c], "local"?: ..., "noise"?: [b, n]}: views, and what MAE orders tokens by.
    """
    twin = (AllPixelsMAE if way == "all pixels" else TWINS[objective])(experiment)
    load(twin, params)
    twin.to(device).train()
    placed = [tensor.to(device) for tensor in twin.inputs({name: torch.tensor(np.asarray(array)) for name, array in inputs.items()})]
    return Peer(twin, torch.compile(twin) if way == "compiled" else twin, placed, experiment.optim)


# ------------------------------------------------------------------ weights


def load(module: nn.Module, params: Mapping[str, Any]) -> None:
    """Copies our weights into a twin. Raises ValueError where the two do not have the same ones."""
    ours, theirs = dict(_named(params)), dict(module.named_parameters())
    if set(ours) != set(theirs):
        raise ValueError(
            f"a twin of other weights: {sorted(set(ours) ^ set(theirs))[:6]} are on one side only; copy the change of eo_jax to its twin"
        )
    with torch.no_grad():
        for name, parameter in theirs.items():
            parameter.copy_(torch.tensor(_reshaped(*ours[name], parameter.shape)))


def _named(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, tuple[str, np.ndarray]]]:
    """(PyTorch's name, (our last name, array)) of each weight; stacked layers one by one."""
    names = {"kernel": "weight", "scale": "weight", "qkv": "qkv.weight", "qkv_bias": "qkv.bias"}
    for key, value in params.items():
        if key == "layers":
            stacked = list(_named(value))
            for i in range(len(stacked[0][1][1])):
                yield from ((f"{prefix}{i}.{name}", (leaf, array[i])) for name, (leaf, array) in stacked)
        elif isinstance(value, Mapping):
            yield from _named(value, f"{prefix}{key}.")
        else:
            yield prefix + names.get(key, key), (key, np.asarray(value))


def _reshaped(leaf: str, array: np.ndarray, shape: torch.Size) -> np.ndarray:
    """An array of ours in the axes of a PyTorch weight."""
    if leaf == "kernel" and len(shape) == 4:  # a patch embedding as a convolution: row, column, band -> out
        _, channels, rows, columns = shape
        return array.reshape(rows, columns, channels, -1).transpose(3, 2, 0, 1)
    if leaf == "qkv":
        array = array.reshape(len(array), -1)
    return np.ascontiguousarray(array.T if leaf in ("kernel", "qkv") else array).reshape(shape)


# ------------------------------------------------------------------ networks


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
    """Two layers with the exact GELU between."""

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
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        return self.norm(self.blocks(x))


class ViT(nn.Module):
    """Views [b, c, H, W] -> class token [b, d]; patch embedding by a convolution, as timm has it."""

    def __init__(self, experiment: Experiment):
        super().__init__()
        encoder = experiment.objective.encoder
        patch, bands, width = encoder.patch, len(encoder.sensor.bands), encoder.width
        self.stem = nn.ModuleDict({"embed": nn.Conv2d(bands, width, patch, patch)})
        self.trunk = Trunk(width, encoder.layers, encoder.trunk.heads)
        for _, size in experiment.views.values():
            self.register_buffer(f"positions_{size // patch}", _sincos(width, size // patch), persistent=False)

    def forward(self, view: Tensor) -> Tensor:
        grid = self.stem["embed"](view)
        positions = getattr(self, f"positions_{grid.shape[-1]}")
        return self.trunk(grid.flatten(2).transpose(1, 2) + positions)[:, 0]


def _sincos(width: int, side: int) -> Tensor:
    return torch.tensor(sincos_2d(width, side, side))


class SpectralAdapter(nn.Module):
    """Pixels [p, c] -> [p, 128]: convolutions along the bands as windows and one product each; compiled, the fastest of four ways to write it."""

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
    """Images [b, c, H, W] -> [b, 128, H, W]: the same by 3-D convolutions, as SpectralEarth's code has it."""

    def __init__(self):
        super().__init__()
        for i, (kernel, stride, fan_in, fan_out) in enumerate(_LAYERS):
            self.add_module(f"conv{i}", nn.Conv3d(fan_in, fan_out, (kernel, 1, 1), (stride, 1, 1), (1, 0, 0)))
            self.add_module(f"norm{i}", nn.BatchNorm3d(fan_out))

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None]
        for i in range(len(_LAYERS)):
            x = torch.relu(getattr(self, f"norm{i}")(getattr(self, f"conv{i}")(x)))
        return x.mean(2)


# ------------------------------------------------------------------ objectives


class Twin(nn.Module):
    """An objective: `forward(*inputs)` is its loss."""

    def inputs(self, given: Mapping[str, Tensor]) -> list[Tensor]:
        """What `forward` takes, made of views [b, v, H, W, c] and noise; not measured, so each twin has the layout that suits it."""
        raise NotImplementedError

    def after_step(self) -> None:
        """Follows the optimizer."""


class MAE(Twin):
    """Masked autoencoder; the adapter sees visible tokens only. Views have the bands last."""

    def __init__(self, experiment: Experiment):
        super().__init__()
        encoder, config = experiment.objective.encoder, experiment.objective.config
        _, size = next(iter(experiment.views.values()))
        self.patch, side = encoder.patch, size // encoder.patch
        self.visible = int(side**2 * (1 - config.mask_ratio) + 1e-9)
        self.encoder = nn.ModuleDict({"stem": self.make_stem(encoder.width), "trunk": Trunk(encoder.width, encoder.layers, encoder.trunk.heads)})
        self.decoder = Decoder(config, encoder.width, self.patch**2 * len(encoder.sensor.bands), side)
        self.register_buffer("positions", _sincos(encoder.width, side)[None], persistent=False)

    def make_stem(self, width: int) -> nn.ModuleDict:
        return nn.ModuleDict({"adapter": SpectralAdapter(), "embed": nn.Linear(self.patch**2 * 128, width)})

    def inputs(self, given: Mapping[str, Tensor]) -> list[Tensor]:
        return [given["global"][:, 0].contiguous(), given["noise"]]

    def forward(self, view: Tensor, noise: Tensor) -> Tensor:
        order = noise.argsort(1)
        seen, restore = order[:, : self.visible], order.argsort(1)
        patches = self.patches(view)
        tokens = self.embed(view, patches, seen) + _take(self.positions.expand(len(view), -1, -1), seen)
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
    """The same with the adapter and the patch embedding on the whole image, before masking. Views have the bands first."""

    def make_stem(self, width: int) -> nn.ModuleDict:
        return nn.ModuleDict({"adapter": SpectralImage(), "embed": nn.Conv2d(128, width, self.patch, self.patch)})

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
        self.blocks = nn.Sequential(*(Block(width, config.decoder_heads) for _ in range(config.decoder_depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.register_buffer("positions", _sincos(width, side)[None], persistent=False)

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
    """Mean over the masked tokens of the squared error to pixels normalised by their token's mean and unbiased variance."""
    variance, mean = torch.var_mean(pixels, dim=-1, keepdim=True)
    error = (predicted - (pixels - mean) / (variance + 1e-6).sqrt()).square().mean(-1)
    return (error * masked).sum() / masked.sum()


def encoder_of(experiment: Experiment) -> nn.Module:
    """The twin of its encoder: views [b, c, H, W] -> pooled features [b, d]."""
    return ViT(experiment) if experiment.objective.encoder.kind == "tokens" else ResNet(experiment)


class Branch(nn.Module):
    """DINO's encoder and head: views [b, c, H, W] -> [b, k]."""

    def __init__(self, experiment: Experiment):
        super().__init__()
        config = experiment.objective.config
        widths = (experiment.objective.encoder.width, config.hidden, config.hidden, config.bottleneck)
        layers = {f"fc{i}": nn.Linear(widths[i - 1], widths[i]) for i in (1, 2, 3)}
        self.encoder = encoder_of(experiment)
        self.projector = nn.ModuleDict({**layers, "last_layer": nn.Linear(config.bottleneck, config.prototypes, bias=False)})

    def forward(self, view: Tensor) -> Tensor:
        head = self.projector
        x = F.gelu(head["fc2"](F.gelu(head["fc1"](self.encoder(view)))))
        return F.linear(F.normalize(head["fc3"](x).float(), dim=-1), F.normalize(head["last_layer"].weight, dim=-1))


class DINO(Branch, Twin):
    """Two global views for both branches, local ones for the student; crops of one size in one forward pass."""

    def __init__(self, experiment: Experiment):
        super().__init__(experiment)
        self.teacher = Branch(experiment).requires_grad_(False)
        self.config, self.views = experiment.objective.config, experiment.views
        self.register_buffer("centre", torch.zeros(self.config.prototypes))

    def inputs(self, given: Mapping[str, Tensor]) -> list[Tensor]:
        return [given[name].transpose(0, 1).flatten(0, 1).movedim(-1, 1).contiguous() for name in ("global", "local")]

    def forward(self, large: Tensor, small: Tensor) -> Tensor:
        config = self.config
        with torch.no_grad():
            found = self.teacher(large).float().unflatten(0, (2, -1))
            targets = ((found - self.centre) / config.teacher_temperature).softmax(-1)
            self.centre.lerp_(found.mean((0, 1)), 1 - config.centre_momentum)
        outputs = torch.cat([Branch.forward(self, view).float().unflatten(0, (-1, targets.shape[1])) for view in (large, small)])
        pairs = -torch.einsum("ibk,jbk->ij", targets, (outputs / config.student_temperature).log_softmax(-1)) / targets.shape[1]
        return (pairs.sum() - pairs.diagonal().sum()) / (pairs.numel() - len(pairs))

    @torch.no_grad()
    def after_step(self) -> None:
        student = [*self.encoder.parameters(), *self.projector.parameters()]
        torch._foreach_lerp_(list(self.teacher.parameters()), student, 1 - self.config.momentum)


class BarlowTwins(Twin):
    """Two views, each by itself through encoder and projector."""

    def __init__(self, experiment: Experiment):
        super().__init__()
        self.encoder = encoder_of(experiment)
        self.config = experiment.objective.config
        widths = (experiment.objective.encoder.width, *self.config.projector)
        layers = [nn.Linear(fan_in, fan_out, bias=False) for fan_in, fan_out in itertools.pairwise(widths)]
        norms = nn.ModuleList(nn.BatchNorm1d(width) for width in widths[1:-1])
        self.projector = nn.ModuleDict({"hidden": nn.ModuleList(layers[:-1]), "norms": norms, "last": layers[-1]})

    def inputs(self, given: Mapping[str, Tensor]) -> list[Tensor]:
        return [given["global"][:, i].movedim(-1, 1).contiguous() for i in (0, 1)]

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        za, zb = (self._standardised(view) for view in (first, second))
        correlation = za.T @ zb / len(za)
        on = torch.diagonal(correlation)
        return (1 - on).square().sum() + self.config.off_diagonal * (correlation.square().sum() - on.square().sum())

    def _standardised(self, view: Tensor) -> Tensor:
        x = self.encoder(view)
        for layer, norm in zip(self.projector["hidden"], self.projector["norms"], strict=True):
            x = torch.relu(norm(layer(x)))
        return F.batch_norm(self.projector["last"](x).float(), None, None, training=True)


TWINS: dict[str, type[Twin]] = {"mae": MAE, "dino": DINO, "barlow_twins": BarlowTwins}
