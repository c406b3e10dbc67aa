"""Tests of `eo_jax.step`: descent, the guard against non-finite steps, accumulation, the teacher,
and what runs in which precision.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend.core import jaxprs_in_params
from toy_objective import MEMORY, Toy

from eo_jax.experiment import compute_dtype
from eo_jax.models.encoder import make_encoder
from eo_jax.models.functional import REMAT, TRAIN, Network, Stack
from eo_jax.models.layers.batch_norm import BatchNorm
from eo_jax.models.layers.transformer_block import Block
from eo_jax.models.stems.spectral_adapter import Config as StemConfig
from eo_jax.models.trunks import vit
from eo_jax.objectives import mae
from eo_jax.objectives.features import features_of, make_pooled
from eo_jax.optim import optimizers
from eo_jax.sensors import ENMAP
from eo_jax.spikes import WINDOW
from eo_jax.step import init_state, make_train_step, norms

BANDS, ROWS, STEPS = 5, 8, 50
TOY = Toy(BANDS)
OPTIMIZER = optax.chain(optax.trace(0.9), optax.scale(-0.05))


def make_views(batch, key):
    """Pixels [b, c] as views of one pixel; nothing random."""
    return {"enmap/global": batch["enmap"]["pixels"][:, None, None, None]}


def batch_of(seed: int = 0) -> dict:
    return {
        "enmap": {
            "pixels": np.random.default_rng(seed).normal(1, 1, (ROWS, BANDS)).astype(np.float32)
        }
    }


@functools.cache
def step_of(accum: int = 1):
    return jax.jit(make_train_step(TOY, OPTIMIZER, make_views, seed=0, steps=STEPS, accum=accum))


@pytest.fixture
def state() -> dict:
    return jax.jit(lambda: init_state(TOY, OPTIMIZER, seed=3))()


def same(a, b) -> bool:
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool(np.array_equal(x, y)), a, b)))


def without_step(state: dict) -> dict:
    return {key: value for key, value in state.items() if key != "step"}


def test_the_loss_falls_to_nothing_on_a_batch_that_one_layer_can_fit(state):
    losses = []
    for _ in range(STEPS):
        state, metrics = step_of()(state, batch_of())
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.05 * losses[0]
    assert int(state["step"]) == STEPS


def test_logged_norms_are_those_of_gradient_update_and_new_weights(state):
    new, metrics = step_of()(state, batch_of())
    gradient = jax.grad(
        lambda params: TOY.loss(params, state["carry"], make_views(batch_of(), None), None, 0.0)[0]
    )(state["params"])

    def norm(tree):
        return np.sqrt(sum(float(np.sum(np.square(leaf))) for leaf in jax.tree.leaves(tree)))

    moved = jax.tree.map(np.subtract, new["params"], state["params"])
    assert float(metrics["grad_norm"]) == pytest.approx(norm(gradient), rel=1e-5)
    assert float(metrics["skipped"]) == 0
    measured = norms(new["params"], state["params"])
    assert float(measured["update_norm"]) == pytest.approx(norm(moved), rel=1e-4)
    assert float(measured["param_norm"]) == pytest.approx(norm(new["params"]), rel=1e-5)


@pytest.mark.parametrize(("rows", "kept"), [(8, 8), (256, 256), (257, 129), (600, 200)])
def test_what_is_watched_is_spread_over_the_batch(rows, kept):
    number = jnp.arange(rows, dtype=jnp.float32)
    pooled = make_pooled(
        TOY, lambda batch: make_global_views(batch["enmap"]["pixels"]), {"enmap": ("enmap",)}
    )
    state = {"params": {"layer": {"kernel": jnp.eye(1), "bias": jnp.zeros(1)}}, "carry": {}}
    (found,) = pooled(state, {"enmap": {"pixels": number[:, None], "time": None}}).values()
    assert found.shape == (kept, 1)
    assert np.array_equal(found[:, 0], number[:: -(-rows // kept)])


def make_global_views(pixels):
    views = make_views({"enmap": {"pixels": pixels}}, None)
    return views | {"enmap/global/valid": jnp.ones_like(views["enmap/global"], bool)}


def test_the_watch_sees_each_source_by_the_encoder_that_evaluates_it():
    """Teachers where those come first; a source without an encoder of its own by the one that it
    shares.
    """

    class Scaled(Toy):
        def encoders(self, params, carry):
            def of(source, scale):
                return {"source": source, "params": scale, "statistics": {}}

            return {"a.teacher": of("a", 2.0), "a": of("a", 3.0), "b": of("b", 5.0)}

        def features(self, weights, view, valid):
            return {"pooled": weights["params"] * view[:, 0, 0]}

    def see(batch):
        seen = {source: make_global_views(fields["pixels"]) for source, fields in batch.items()}
        return {
            name.replace("enmap", source): view
            for source, views in seen.items()
            for name, view in views.items()
        }

    same_encoder = {"a": ("a", "c"), "b": ("b",), "c": ("a", "c"), "d": ("d",)}
    pooled = make_pooled(Scaled(1), see, same_encoder)
    state = {"params": {}, "carry": {}}
    found = pooled(state, {source: {"pixels": jnp.ones((2, 1))} for source in "abc"})
    assert {name: float(value[1, 0]) for name, value in found.items()} == {
        "pooled/a": 2.0,
        "pooled/b": 5.0,
        "pooled/c": 2.0,
    }
    assert pooled(state, {source: {"pixels": jnp.ones((2, 1))} for source in "bd"}).keys() == {
        "pooled/b"
    }  # a target, say, without an encoder
    with pytest.raises(
        ValueError, match=r"objective Scaled: no encoder of source 'd' among a\.teacher, a, b"
    ):
        features_of(Scaled(1), {}, {}, {}, "d", ("d",))


# --- non-finite steps


@pytest.mark.parametrize("accum", [1, 2])
@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])  # 3e38 is finite, its square is not
def test_a_step_that_is_not_finite_changes_nothing_but_the_step_number(state, value, accum):
    state, _ = step_of(accum)(state, batch_of())  # momentum and memory hold something to lose
    broken = batch_of(1)
    broken["enmap"]["pixels"][5, 2] = value
    after, metrics = step_of(accum)(state, broken)
    assert float(metrics["skipped"]) == 1
    assert same(without_step(after), without_step(state))
    assert int(after["step"]) == int(state["step"]) + 1
    after, metrics = step_of(accum)(after, batch_of(2))
    assert float(metrics["skipped"]) == 0 and not same(after["params"], state["params"])


def test_a_finite_loss_with_a_gradient_that_is_not_is_skipped_too(state):
    @jax.custom_vjp
    def bad_gradient(x):
        return x

    bad_gradient.defvjp(lambda x: (x, None), lambda _, g: (g * jnp.nan,))

    class Broken(Toy):
        def loss(self, params, carry, views, key, progress):
            loss, rest = super().loss(params, carry, views, key, progress)
            return bad_gradient(loss), rest

    step = jax.jit(
        make_train_step(Broken(BANDS), OPTIMIZER, make_views, seed=0, steps=STEPS, accum=1)
    )
    after, metrics = step(state, batch_of())
    assert np.isfinite(float(metrics["loss"])) and float(metrics["skipped"]) == 1
    assert same(without_step(after), without_step(state))


NORM = Network(lambda rngs: BatchNorm(BANDS, "plain"))


class Normalised(Toy):
    """Toy behind BatchNorm."""

    def init(self, key):
        params, carry = super().init(key)
        return params, {**carry, "statistics": NORM.init(key)[1]}

    def loss(self, params, carry, views, key, progress):
        pixels, statistics = NORM.apply(
            {}, carry["statistics"], lambda norm: norm(views["enmap/global"], None, TRAIN)
        )
        carry = {**carry, "statistics": statistics}
        return super().loss(params, carry, {"enmap/global": pixels}, key, progress)


@pytest.mark.parametrize("accum", [1, 2])
def test_a_fill_value_that_only_the_running_variance_sees_is_skipped_too(accum):
    """Loss and gradient are finite: the pixel is divided by the infinite variance of the batch,
    which would stay in the running one for good.
    """
    objective = Normalised(BANDS)
    state = jax.jit(lambda: init_state(objective, OPTIMIZER, seed=3))()
    step = jax.jit(
        make_train_step(objective, OPTIMIZER, make_views, seed=0, steps=STEPS, accum=accum)
    )
    state, _ = step(state, batch_of())
    broken = batch_of(1)
    broken["enmap"]["pixels"][5, 2] = -1e22
    views = make_views(jax.tree.map(jnp.asarray, broken), None)
    _, (carry, _) = objective.loss(state["params"], state["carry"], views, None, 0.0)
    assert np.isinf(carry["statistics"]["var"]).any()
    after, metrics = step(state, broken)
    assert np.isfinite([float(metrics["loss"]), float(metrics["grad_norm"])]).all()
    assert float(metrics["skipped"]) == 1 and same(without_step(after), without_step(state))
    after, metrics = step(after, batch_of(2))
    assert float(metrics["skipped"]) == 0 and np.isfinite(after["carry"]["statistics"]["var"]).all()


@pytest.mark.parametrize("part", ["memory", "teacher"])
def test_no_part_of_the_carry_may_become_non_finite(state, part):
    class Broken(Toy):
        def loss(self, params, carry, views, key, progress):
            loss, (carry, metrics) = super().loss(params, carry, views, key, progress)
            return loss, ({**carry, part: jax.tree.map(lambda x: x / 0, carry[part])}, metrics)

    step = jax.jit(
        make_train_step(Broken(BANDS), OPTIMIZER, make_views, seed=0, steps=STEPS, accum=1)
    )
    after, metrics = step(state, batch_of())
    assert float(metrics["skipped"]) == 1 and same(without_step(after), without_step(state))


# --- spikes


def test_a_spike_changes_nothing_but_the_step_number_and_the_recent_losses():
    watched = [("enmap",), ("other", "enmap")]
    state = jax.jit(lambda: init_state(TOY, OPTIMIZER, 3, watched))()
    assert sorted(state["recent_losses"]) == ["enmap", "enmap+other"]
    step = jax.jit(
        make_train_step(TOY, OPTIMIZER, make_views, seed=0, steps=STEPS, accum=1, spike_sigma=6.0)
    )
    for n in range(WINDOW):
        state, metrics = step(state, batch_of(n))
        assert float(metrics["skipped"]) == 0
    high = {"enmap": {"pixels": 1e4 * batch_of(1)["enmap"]["pixels"]}}
    after, metrics = step(state, high)
    assert float(metrics["skipped"]) == float(metrics["spike"]) == 1
    learned = ("params", "carry", "optimizer")
    assert same([after[name] for name in learned], [state[name] for name in learned])
    assert int(after["step"]) == WINDOW + 1
    counts = {name: int(recent.count) for name, recent in after["recent_losses"].items()}
    assert counts == {"enmap": WINDOW + 1, "enmap+other": 0}
    after, metrics = step(after, batch_of(2))
    assert float(metrics["skipped"]) == 0 and not same(after["params"], state["params"])


# --- accumulation


def test_microbatches_give_the_loss_and_the_update_of_the_whole_batch(state):
    whole, metrics = step_of(1)(state, batch_of())
    for accum in (2, 4):
        parts, part_metrics = step_of(accum)(state, batch_of())
        for name in ("loss", "out", "grad_norm"):
            assert float(part_metrics[name]) == pytest.approx(float(metrics[name]), rel=1e-6)
        for name in ("kernel", "bias"):
            np.testing.assert_allclose(
                parts["params"]["layer"][name], whole["params"]["layer"][name], rtol=0, atol=1e-7
            )


def test_the_carry_passes_through_the_microbatches_in_order_and_the_teacher_moves_once(state):
    after, _ = step_of(4)(state, batch_of())
    carry = after["carry"]
    assert (int(carry["forwards"]), int(carry["updates"])) == (4, 1)
    # Microbatch k holds rows k, k + 4, ...: each is spread over all devices, as the batch is.
    means = [batch_of()["enmap"]["pixels"][k::4].mean() for k in range(4)]
    np.testing.assert_allclose(carry["memory"][MEMORY - 4 :], means, rtol=1e-6)
    expected = jax.tree.map(
        lambda old, new: 0.75 * old + 0.25 * new, state["carry"]["teacher"], after["params"]
    )
    assert all(jax.tree.leaves(jax.tree.map(np.allclose, carry["teacher"], expected)))


# --- randomness and progress


class Recorder(Toy):
    """A toy whose metrics are the keys and the progress it was given."""

    def loss(self, params, carry, views, key, progress):
        loss, (carry, _) = super().loss(params, carry, views, key, progress)
        return loss, (
            carry,
            {"drawn": jax.random.uniform(key), "progress": progress, "view_drawn": views["drawn"]},
        )


def recorded(state: dict, seed: int, accum: int = 1) -> dict[str, float]:
    def views(batch, key):
        return make_views(batch, key) | {"drawn": jax.random.uniform(key)}

    _, metrics = jax.jit(
        make_train_step(Recorder(BANDS), OPTIMIZER, views, seed=seed, steps=STEPS, accum=accum)
    )(state, batch_of())
    return {name: float(metrics[name]) for name in ("drawn", "view_drawn", "progress")}


def test_draws_are_a_function_of_seed_and_step_alone(state):
    later = state | {"step": jnp.asarray(7, jnp.int32)}
    assert recorded(state, 0) == recorded(state, 0)
    draws = [recorded(state, 0), recorded(later, 0), recorded(state, 1)]
    assert len({draw[name] for draw in draws for name in ("drawn", "view_drawn")}) == 6
    assert [draw["progress"] for draw in draws] == pytest.approx([0, 7 / STEPS, 0])


def test_each_microbatch_has_its_own_key(state):
    class LastDraws(Recorder):
        def loss(self, params, carry, views, key, progress):
            loss, (carry, metrics) = super().loss(params, carry, views, key, progress)
            carry["memory"] = jnp.roll(carry["memory"], -1).at[-1].set(metrics["drawn"])
            return loss, (carry, {})

    def views(batch, key):
        return make_views(batch, key) | {"drawn": jax.random.uniform(key)}

    after, _ = jax.jit(
        make_train_step(LastDraws(BANDS), OPTIMIZER, views, seed=0, steps=STEPS, accum=4)
    )(state, batch_of())
    assert len(set(np.asarray(after["carry"]["memory"])[1::2].tolist())) == 4


# --- stacked blocks


@functools.cache
def stack(remat: str):
    network = Network(
        lambda rngs: Stack(
            lambda block_rngs: Block(16, 2, jnp.dtype("float32"), rngs=block_rngs),
            3,
            remat,
            rngs=rngs,
        )
    )
    return network, jax.jit(network.init)(jax.random.key(1))[0]


def test_stacked_blocks_are_the_same_blocks_one_after_the_other():
    network, params = stack("none")
    block = Network(lambda rngs: Block(16, 2, jnp.dtype("float32"), rngs=rngs))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 16)), jnp.float32)

    def unrolled(params, x):
        for i in range(3):
            x, _ = block.apply(
                jax.tree.map(lambda leaf, i=i: leaf[i], params["layers"]),
                {},
                lambda module, x=x: module(x),
            )
        return x

    def value_and_grad(f):
        return jax.jit(jax.value_and_grad(lambda params: jnp.sum(jnp.sin(f(params, x)))))(params)

    stacked = value_and_grad(
        lambda params, x: network.apply(params, {}, lambda module: module(x))[0]
    )
    layers = np.asarray(params["layers"]["mlp"]["fc1"]["kernel"])
    assert layers.shape == (3, 16, 64) and not np.allclose(layers[0], layers[1])
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
        stacked,
        value_and_grad(unrolled),
    )


def test_remat_changes_memory_not_numbers():
    x = jnp.asarray(
        np.random.default_rng(0).normal(size=(2, 50, 16)), jnp.float32
    )  # enough tokens for activations to outweigh weights
    params = stack("none")[1]

    def loss(remat):
        return lambda params: jnp.sum(
            jnp.sin(stack(remat)[0].apply(params, {}, lambda module: module(x))[0])
        )

    compiled = {
        remat: jax.jit(jax.value_and_grad(loss(remat))).lower(params).compile() for remat in REMAT
    }
    for again in ("cheap", "block"):
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
            compiled["none"](params),
            compiled[again](params),
        )
    needs = {remat: step.memory_analysis().temp_size_in_bytes for remat, step in compiled.items()}
    assert needs["block"] < needs["cheap"] < needs["none"]


# --- precision


def test_bfloat16_is_for_computing_only():
    encoder = make_encoder(
        StemConfig(patch=8),
        vit.Config(size="tiny", depth=1),
        ENMAP,
        compute_dtype("bfloat16"),
    )
    objective = mae.Config(decoder_width=32, decoder_depth=1, decoder_heads=2).build(
        {"enmap": encoder}
    )
    params, _ = jax.eval_shape(objective.init, jax.random.key(0))
    optimizer = optimizers.make_optimizer(optimizers.Config(), params, STEPS)
    view = jax.ShapeDtypeStruct((2, 1, 32, 32, 202), jnp.float32)
    views = {"enmap/global": view, "enmap/global/valid": jax.ShapeDtypeStruct(view.shape, bool)}
    step = make_train_step(
        objective, optimizer, lambda batch, key: batch, seed=0, steps=STEPS, accum=1
    )
    state = jax.eval_shape(lambda: init_state(objective, optimizer, 0))
    after, metrics = jax.eval_shape(step, state, views)

    def kinds(tree):
        return {leaf.dtype.name for leaf in jax.tree.leaves(tree)}

    assert kinds((after["params"], after["carry"], metrics)) == {"float32"}
    assert kinds(after["optimizer"]) == {"float32", "int32"}
    products = [
        (eqn.invars[0].aval.dtype.name, eqn.invars[1].aval.dtype.name, eqn.outvars[0].aval)
        for eqn in equations(jax.make_jaxpr(step)(state, views).jaxpr)
        if eqn.primitive.name == "dot_general"
    ]
    in_bfloat16 = [out for left, right, out in products if left == right == "bfloat16"]
    assert in_bfloat16 and len(in_bfloat16) > 0.7 * len(products)
    # Those of weights are summed over replicas before anything else: not in bfloat16.
    weights = {leaf.shape for leaf in jax.tree.leaves(after["params"])}
    of_weights = [out for out in in_bfloat16 if out.shape in weights | {(192, 3, 3, 64)}]
    assert of_weights and {out.dtype.name for out in of_weights} == {"float32"}


def equations(jaxpr):
    """All equations of a program, those of inner ones too."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jaxprs_in_params(eqn.params):
            yield from equations(inner)
