"""Loads an encoder that eo_jax exported into its PyTorch network, and prepares the input. Copy this
file into your project; it needs torch, numpy and safetensors. What does not fit is a ValueError.

    contract = load_encoder("encoder.safetensors", network)  # made as contract["constructor"] says
    prepare = Input(contract)
    features = network.eval()(prepare(pixels, sensor="enmap", bands=names))
"""

import json
import pathlib
import zlib

import torch
from safetensors import safe_open

VERSION = 2  # of the contract
HEADS = ("num_heads", "num_attention_heads", "heads")  # where attention modules say their number
NORMS = {"layer": torch.nn.LayerNorm, "batch": torch.nn.modules.batchnorm._BatchNorm}


def read(path):
    """(contract, {key: tensor}) of a file, or of an index's shards, compared with its checksums."""
    try:
        tensors, path = {}, pathlib.Path(path)
        index = path.name.endswith(".index.json") and json.loads(path.read_text())["weight_map"]
        for name in sorted(set(index.values())) if index else [path.name]:
            with safe_open(path.with_name(name), "pt") as file:  # a name of no other folder
                contract = json.loads((file.metadata() or {}).get("eo_jax", "{}"))
                tensors |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        version, seal = contract.get("version"), dict(contract.pop("seal", {}))
        texts = {key: json.dumps(x, sort_keys=True) for key, x in leaves(contract)}
    except Exception as error:
        raise ValueError(f"{path}: not safetensors of eo_jax, or damaged ({error})") from error
    need(version == VERSION, f"{path}: has no contract of eo_jax, or of version {version}")
    fields = {key: f"{zlib.crc32(text.encode()):08x}" for key, text in texts.items()}
    same(f"{path}: checksum of the contract's", fields, seal.get("fields", {}))
    data = {key: zlib.crc32(x.reshape(-1).view(torch.uint8).numpy()) for key, x in tensors.items()}
    rows = {key: [*form(x), f"{data[key]:08x}"] for key, x in tensors.items()}
    same(f"{path}: type, shape and checksum of", rows, seal.get("tensors", {}))
    return contract, tensors


def load_encoder(path, network):
    """Loads a file, whose keys may have one prefix, without its head where the network has none."""
    contract, tensors = read(path)
    own, modules = network.state_dict(), [*network.modules()]
    whole, cut = contract, tuple(contract.get("head", {}).get("keys", ()))
    if any(key.startswith(cut) for key in own):
        whole, cut = {**contract["head"], "architecture": contract["head"]["with_encoder"]}, ()
    pre = min(tensors)[: -len(min(own))] if min(tensors).endswith(min(own)) else ""
    tensors = {k: x for n, x in tensors.items() if not (k := n.removeprefix(pre)).startswith(cut)}
    wanted = {key: x if isinstance(x, list) else [x] for key, x in whole["architecture"].items()}
    made = f"network: make it as {whole['constructor']};"
    same(f"{made} type and shape of", *({k: form(x) for k, x in w.items()} for w in (own, tensors)))
    found = [x for m in modules for name in HEADS if type(x := getattr(m, name, None)) is int]
    heads = [x for x, y in zip(found, [None, *found], strict=False) if x != y]  # by stage
    right = wanted.get("heads", heads)
    need(right == heads, f"{made} num_heads is {heads}, not {right}")
    for m, name in [(m, name) for m in modules for name in NORMS if isinstance(m, NORMS[name])]:
        right = wanted.get(f"{name}_norm_epsilon", [])
        need(m.eps in right, f"{made} the epsilon of {m} is not {right}")
    convs = [m for m in modules if isinstance(m, torch.nn.Conv2d) and "tokens" in wanted]
    for m in [m for m in convs if [m.kernel_size[0]] == wanted["patch"]]:
        need(m.stride == m.kernel_size, f"{made} patches of {m} overlap")
    network.load_state_dict(tensors, strict=True)
    return contract


class Input:
    """Compares images with the contract of an encoder, and normalises them."""

    def __init__(self, contract):
        self.patch, self.image = contract["architecture"]["patch"], contract["image_size"]
        self.fixed, self.product = "tokens" in contract["architecture"], contract["sensor"]
        self.mean, self.std = (torch.tensor(contract[x])[:, None, None] for x in ("mean", "std"))

    def __call__(self, pixels, *, sensor, bands, nm=None, scale=None, offset=None, nodata=None):
        """[b, c, h, w] of `sensor` -> float32; scale, offset, nodata: what its file says of it."""
        product, none, (_, c, *size) = self.product, self.product["nodata"], pixels.shape
        kind, right = form(pixels)[0], product["dtype"]
        need(sensor == product["id"], f"pixels: sensor {sensor}, expected {product['id']}")
        need(kind == right, f"pixels: type {kind}, expected {right} digital numbers, not scaled")
        same("pixels: band", dict(enumerate(bands)), dict(enumerate(product["bands"]["name"])))
        need(c == len(bands), f"pixels: {c} bands on axis 1, {len(bands)} are named")
        cut = [self.image] * 2 if self.fixed else [x - x % self.patch for x in size]
        need(len(size) == 2 and size == cut, f"pixels: size {size}, expected for example {cut}")
        need(nodata in (None, none), f"pixels: nodata {nodata}, expected {none}")
        for field, given in (("centre_nm", nm), ("scale", scale), ("offset", offset)):
            given = list(given) if hasattr(given, "__len__") else [given]
            column = product["bands"].get(field) or [None] * c
            need(len(given) in (1, c), f"pixels: {len(given)} values of {field}, expected {c}")
            within = 0.0 if field != "centre_nm" else 1.0 if c >= 30 else 10.0
            for name, x, y in zip(bands, given * (c // len(given)), column, strict=True):
                y = product.get(field) if y is None else y
                near = None in (x, y) or abs(x - y) <= within + 1e-6 * abs(y)
                need(near, f"pixels: {field} of band {name} is {x}, expected {y}")
        x = pixels.float()
        valid = x.isfinite() if none is None else x.isfinite() & (x != none)
        return torch.where(valid, (x - self.mean.to(x)) / self.std.to(x), 0.0)


def need(holds, message):
    if not holds:
        raise ValueError(message)


def same(what, found, expected):
    for name in {**expected, **found}:
        here, there = found.get(name, "missing"), expected.get(name, "nothing")
        need(here == there, f"{what} {name}: {here}, expected {there}")


def leaves(value, path=""):
    parts = value.items() if isinstance(value, dict) else ()
    return [x for k, y in parts for x in leaves(y, f"{path}.{k}" if path else k)] or [(path, value)]


def form(x):
    return [str(x.dtype).removeprefix("torch."), list(x.shape)]
