"""The papers' formulas as plain numpy loops in float64, to compare the jax code with. Slow on
purpose: each line is one line of a paper.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import erf


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference as a share of the largest expected magnitude; NaN where either
    holds one.
    """
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape, f"{found.shape} found, {expected.shape} expected"
    return float(np.max(np.abs(found - expected)) / max(float(np.max(np.abs(expected))), 1e-12))


def random_weights(shapes, seed: int):
    """Arrays for a nested dict of shapes, none at its initial value: kernels as Xavier would scale
    them, scales and variances near 1.
    """
    rng = np.random.default_rng(seed)

    def draw(path: str, shape: tuple[int, ...]) -> np.ndarray:
        if path.endswith(("scale", "var")):
            return rng.uniform(0.7, 1.3, shape).astype(np.float32)
        spread = math.prod(shape[-2:]) ** -0.25 if path.endswith("kernel") else 0.1
        return rng.normal(0, spread, shape).astype(np.float32)

    def walk(tree, path: str):
        return (
            {name: walk(value, f"{path}/{name}") for name, value in tree.items()}
            if isinstance(tree, dict)
            else draw(path, tree.shape)
        )

    return walk(shapes, "")


# --- masked autoencoder


def patchify(image: np.ndarray, patch: int) -> np.ndarray:
    """[H, W, c] -> [n, patch * patch * c]: tokens row by row; inside a token row, column, band."""
    height, width, bands = image.shape
    tokens = []
    for top in range(0, height, patch):
        for left in range(0, width, patch):
            tokens.append(
                [
                    image[top + py, left + px, c]
                    for py in range(patch)
                    for px in range(patch)
                    for c in range(bands)
                ]
            )
    return np.array(tokens)


def norm_pix(tokens: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Each token [n, p] minus its mean, over sqrt(unbiased variance + 1e-6), moments over counted
    values. One value alone has variance 0.
    """
    out = np.zeros(tokens.shape)
    for i, (token, count) in enumerate(zip(tokens.astype(np.float64), counted, strict=True)):
        values = token[count]
        if len(values) == 0:
            continue
        mean = sum(values) / len(values)
        variance = sum((value - mean) ** 2 for value in values) / max(len(values) - 1, 1)
        out[i] = (token - mean) / math.sqrt(variance + 1e-6)
    return out


def masked_error(predicted: np.ndarray, target: np.ndarray, counted: np.ndarray) -> float:
    """Mean over counted values of each masked token of [b, h, ...], then mean over the masked
    tokens that have any; 0 where none has.
    """
    errors = []
    for b, n in np.ndindex(target.shape[:2]):
        if counted[b, n].any():
            difference = (
                predicted[b, n][counted[b, n]].astype(np.float64) - target[b, n][counted[b, n]]
            )
            errors.append(np.mean(difference**2))
    return float(np.mean(errors)) if errors else 0.0


def sincos_2d(width: int, rows: int, columns: int) -> np.ndarray:
    """MAE's positions [rows * columns, width]: half the width for the column, half for the row,
    sines before cosines in each.
    """
    out = np.zeros((rows * columns, width))
    quarter = width // 4
    for row in range(rows):
        for column in range(columns):
            for i in range(quarter):
                frequency = 10000 ** (-i / quarter)
                out[row * columns + column, i] = math.sin(column * frequency)
                out[row * columns + column, quarter + i] = math.cos(column * frequency)
                out[row * columns + column, 2 * quarter + i] = math.sin(row * frequency)
                out[row * columns + column, 3 * quarter + i] = math.cos(row * frequency)
    return out


def moco_v3_positions(width: int, side: int) -> np.ndarray:
    """MoCo-v3's positions [side * side, width], as its released code computes them: sin w, cos w,
    sin h, cos h of a grid whose axes are indexed as those of a matrix, flattened.
    """
    w, h = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    omega = 10000 ** -(np.arange(width // 4) / (width // 4))
    of_w, of_h = np.outer(w.ravel(), omega), np.outer(h.ravel(), omega)
    return np.concatenate([np.sin(of_w), np.cos(of_w), np.sin(of_h), np.cos(of_h)], axis=1)


def mae_decoder(
    weights: dict, tokens: np.ndarray, ids: np.ndarray, rows: int, columns: int
) -> np.ndarray:
    """Decoder with one block for one sample: tokens [1 + k, d], class token first, and their
    locations ids [k] -> pixels [n, p].

    `weights` is the decoder's own tree, its one block stacked along a leading axis.
    """
    embedded = _dense(weights["embed"], tokens)
    width = embedded.shape[1]
    x = np.zeros((1 + rows * columns, width))
    x[0] = embedded[0]  # the class token has no position
    x[1:] = weights["mask_token"][0]
    for place, token in zip(ids, embedded[1:], strict=True):
        x[1 + place] = token
    x[1:] += sincos_2d(width, rows, columns)
    (stacked,) = weights["blocks"].values()
    x = transformer_block(_first(stacked), x)
    return _dense(weights["predict"], _layer_norm(weights["norm"], x))[1:]


def transformer_block(weights: dict, x: np.ndarray) -> np.ndarray:
    """Pre-norm block on one sample [n, d]; weights as eo_jax keeps them: qkv [d, 3, heads,
    head_dim].
    """
    x = x + _attention(weights["attention"], _layer_norm(weights["norm1"], x))
    hidden = _dense(weights["mlp"]["fc1"], _layer_norm(weights["norm2"], x))
    hidden = hidden * 0.5 * (1 + erf(hidden / math.sqrt(2)))
    return x + _dense(weights["mlp"]["fc2"], hidden)


def _attention(weights: dict, x: np.ndarray) -> np.ndarray:
    _, _, heads, head_dim = weights["qkv"].shape
    outputs = []
    for head in range(heads):
        q, k, v = (x @ weights["qkv"][:, i, head] + weights["qkv_bias"][i, head] for i in range(3))
        scores = q @ k.T / math.sqrt(head_dim)
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        outputs.append(shares / shares.sum(axis=1, keepdims=True) @ v)
    return _dense(weights["out"], np.concatenate(outputs, axis=1))


def _dense(weights: dict, x: np.ndarray) -> np.ndarray:
    return x @ weights["kernel"] + weights["bias"]


def _layer_norm(weights: dict, x: np.ndarray) -> np.ndarray:
    mean, variance = x.mean(axis=1, keepdims=True), x.var(axis=1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-6) * weights["scale"] + weights["bias"]


def _first(tree):
    return (
        {name: _first(value) for name, value in tree.items()} if isinstance(tree, dict) else tree[0]
    )


# --- augmentation


def resize_bilinear(image: np.ndarray, out: int) -> np.ndarray:
    """[c, h, w] -> [c, out, out]: bilinear, half-pixel centres, positions clamped to the image, no
    anti-aliasing.
    """
    bands, height, width = image.shape
    resized = np.zeros((bands, out, out))
    for i in range(out):
        top, bottom, y = _neighbours(i, height, out)
        for j in range(out):
            left, right, x = _neighbours(j, width, out)
            upper = (1 - x) * image[:, top, left] + x * image[:, top, right]
            lower = (1 - x) * image[:, bottom, left] + x * image[:, bottom, right]
            resized[:, i, j] = (1 - y) * upper + y * lower
    return resized


def _neighbours(index: int, size: int, out: int) -> tuple[int, int, float]:
    position = min(max((index + 0.5) * size / out - 0.5, 0.0), size - 1.0)
    first = math.floor(position)
    return first, min(first + 1, size - 1), position - first


def crop_resize_flip(
    image: np.ndarray, box: tuple[int, int, int, int], flips: tuple[bool, bool, bool], out: int
) -> np.ndarray:
    """One image [c, h, w]: cut out (top, left, rows, columns), resize, flip up-down, left-right,
    then about the main diagonal; [out, out, c].
    """
    top, left, rows, columns = box
    resized = resize_bilinear(
        image[:, top : top + rows, left : left + columns].astype(np.float64), out
    )
    if flips[0]:
        resized = resized[:, ::-1]
    if flips[1]:
        resized = resized[:, :, ::-1]
    if flips[2]:
        resized = resized.transpose(0, 2, 1)
    return resized.transpose(1, 2, 0)


def resize_where_valid(
    image: np.ndarray, valid: np.ndarray, out: int
) -> tuple[np.ndarray, np.ndarray]:
    """[c, h, w] -> values and validity [out, out, c]: interpolation over valid pixels only, valid
    where they carry at least 0.999 of the weight.
    """
    weight = resize_bilinear(valid.astype(np.float64), out).transpose(1, 2, 0)
    weighted = resize_bilinear(np.where(valid, image, 0.0), out).transpose(1, 2, 0)
    counted = weight >= 0.999
    return np.where(counted, weighted / np.where(counted, weight, 1.0), 0.0), counted


def random_resized_crops(
    rng: np.random.Generator, count: int, height: int, width: int, scale: tuple, ratio: tuple
) -> np.ndarray:
    """(top, left, rows, columns) [count, 4] as torchvision's RandomResizedCrop draws them: ten
    attempts, then the largest central box.
    """
    return np.array([_random_resized_crop(rng, height, width, scale, ratio) for _ in range(count)])


def _random_resized_crop(
    rng: np.random.Generator, height: int, width: int, scale: tuple, ratio: tuple
) -> tuple[int, int, int, int]:
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        columns, rows = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < columns <= width and 0 < rows <= height:
            return (
                int(rng.integers(0, height - rows + 1)),
                int(rng.integers(0, width - columns + 1)),
                rows,
                columns,
            )
    rows, columns = height, width
    if width / height < ratio[0]:
        rows = round(width / ratio[0])
    elif width / height > ratio[1]:
        columns = round(height * ratio[1])
    return (height - rows) // 2, (width - columns) // 2, rows, columns
