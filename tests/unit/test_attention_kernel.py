"""Tests of the choice between XLA's attention and cuDNN's, which no test machine can run."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eo_jax.models.functional import Network
from eo_jax.models.layers import attention, attention_kernel
from eo_jax.models.layers.attention import Attention
from eo_jax.models.trunks import vit
from eo_jax.monitor import flops
from eo_jax.objectives import mae

WIDTH, HEADS, TOKENS = 32, 4, 130
X = jax.random.normal(jax.random.key(0), (2, TOKENS, WIDTH))


@pytest.fixture
def network() -> Network:
    return Network(lambda rngs: Attention(WIDTH, HEADS, jnp.dtype("float32"), rngs=rngs))


@pytest.fixture
def fresh_probe():
    attention_kernel.cudnn_works.cache_clear()
    yield
    attention_kernel.cudnn_works.cache_clear()


def attended(network: Network):
    return network.apply(network.init(jax.random.key(1))[0], {}, lambda module: module(X))[0]


def test_jaxs_own_attention_gives_what_ours_gives(network, monkeypatch):
    expected = attended(network)
    monkeypatch.setattr(attention, "kernel_of", lambda *_: "cudnn")
    fused = attention_kernel.fused_attention
    monkeypatch.setattr(attention, "fused_attention", lambda q, k, v, _: fused(q, k, v, "xla"))
    np.testing.assert_allclose(attended(network), expected, rtol=1e-5, atol=1e-6)


BFLOAT16, FLOAT32 = jnp.dtype("bfloat16"), jnp.dtype("float32")


@pytest.mark.parametrize(
    ("wanted", "tokens", "dtype", "bias", "expected"),
    [
        ("auto", 50, BFLOAT16, None, "xla"),
        ("auto", 197, BFLOAT16, None, "cudnn"),
        ("auto", 1025, BFLOAT16, None, "cudnn"),
        ("cudnn", 50, BFLOAT16, None, "cudnn"),
        ("xla", 1025, BFLOAT16, None, "xla"),
        ("auto", 1025, FLOAT32, None, "xla"),
        ("cudnn", 1025, FLOAT32, None, "xla"),
        ("cudnn", 197, BFLOAT16, (1, 4, 197, 197), "xla"),
    ],
)
def test_the_kernel_goes_by_what_is_wanted_tokens_type_and_bias(
    monkeypatch, wanted, tokens, dtype, bias, expected
):
    monkeypatch.setattr(attention_kernel, "cudnn_works", lambda head: True)
    bias = None if bias is None else jnp.zeros(bias)
    assert attention_kernel.kernel_of(wanted, tokens, 64, dtype, bias) == expected


def test_without_a_gpu_it_is_xla_and_nothing_is_tried(monkeypatch, fresh_probe, capsys):
    monkeypatch.setattr(attention_kernel, "compile_gradient", lambda head: pytest.fail("tried"))
    assert attention_kernel.kernel_of("cudnn", 1025, 64, BFLOAT16, None) == "xla"
    assert capsys.readouterr().out == ""


def test_a_gpu_without_a_working_cudnn_says_so_once(monkeypatch, fresh_probe, capsys):
    def fails(head):
        raise RuntimeError("cuDNN is not detected.\nlong trace")

    monkeypatch.setattr(attention_kernel, "compile_gradient", fails)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for _ in range(3):
        assert attention_kernel.kernel_of("auto", 1025, 64, BFLOAT16, None) == "xla"
    line = "attention: XLA's, since cuDNN's does not compile here: cuDNN is not detected.\n"
    assert capsys.readouterr().out == line


@pytest.fixture
def without_cuda(monkeypatch):
    """JAX builds the cuDNN call as for a Hopper GPU."""
    builder = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(builder, "check_cudnn_version", lambda: 91500)
    monkeypatch.setattr(builder, "check_compute_capability", lambda capability: True)
    monkeypatch.setattr(builder, "is_cuda_compute_capability_equal", lambda capability: False)
    monkeypatch.setattr(attention_kernel, "cudnn_works", lambda head: True)


def gradient_of(kernel: str):
    network = Network(lambda rngs: Attention(WIDTH, HEADS, BFLOAT16, kernel, rngs=rngs))

    def loss(weights):
        out, _ = network.apply(weights, {}, lambda module: module(X.astype(BFLOAT16)))
        return out.astype(jnp.float32).sum()

    return loss, jax.eval_shape(network.init, jax.random.key(1))[0]


def test_for_cuda_attention_and_its_gradient_are_cudnns_without_a_mask(without_cuda):
    loss, weights = gradient_of("auto")
    lowered = jax.jit(jax.grad(loss)).trace(weights).lower(lowering_platforms=("cuda",)).as_text()
    assert lowered.count("custom_call @__cudnn$fmhaSoftmax") == 2
    assert "custom_call @__cudnn$fmhaSoftmaxBackward" in lowered
    assert lowered.count("NO_MASK") == 2
    assert f"tensor<2x{HEADS}x{TOKENS}x{TOKENS}x" not in lowered  # no attention weights


def test_its_products_count_like_xlas(without_cuda):
    fused, plain = (flops.count(*gradient_of(kernel)) for kernel in ("cudnn", "xla"))
    assert fused == plain


def test_unknown_kernels_are_refused():
    with pytest.raises(ValueError, match=r"trunk\.attention: 'flash'; expected one of auto, xla"):
        vit.Config(attention="flash")
    with pytest.raises(ValueError, match=r"decoder_attention: 'flash'; expected one of auto, xla"):
        mae.Config(decoder_attention="flash")
