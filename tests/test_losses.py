"""Tests of the loss functions in `eo_jax.objectives`: values and gradients against the papers in float64, on nasty inputs too."""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import reference_losses

SIZES = {"b": 5, "d": 4, "k": 4, "n": 6, "m": 3, "v": 3, "t": 2, "l": 2}  # t: teacher's views, m: support rows
STEP, VALUE, GRADIENT, RESOLUTION = (
    1e-6,
    1e-5,
    1e-4,
    2.0**-24,
)  # of central differences; relative tolerances; half a unit in the last place of float32


FAST = {"xla_backend_optimization_level": 0}  # compiling is most of the time of this file

# --- what goes in


@dataclasses.dataclass(frozen=True)
class Draw:
    """An input array: how it is drawn, and its axes by letter."""

    axes: str
    make: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def normal(rng, shape):
    return rng.normal(size=shape)


def probabilities(rng, shape):
    return rng.dirichlet(np.ones(shape[-1]), shape[:-1])


def some_masked(rng, shape):
    """Random, but no row without a token masked except the first, which has none."""
    masked = rng.random(shape) < 0.4
    masked[1:, 0], masked[0] = True, False
    return masked


def some_missing(rng, shape):
    labels = rng.normal(size=shape)
    labels[0, 0] = np.nan
    return labels


real = functools.partial(Draw, make=normal)
unit = functools.partial(Draw, make=lambda rng, shape: reference_losses.normalise(rng.normal(size=shape)))
probable = functools.partial(Draw, make=probabilities)
one_hot = functools.partial(Draw, make=lambda rng, shape: np.eye(shape[1])[np.arange(shape[0]) % shape[1]])
binary = functools.partial(Draw, make=lambda rng, shape: (rng.random(shape) < 0.5).astype(np.float64))
classes = functools.partial(Draw, make=lambda rng, shape: np.resize([1, 0, SIZES["k"], 2], shape).astype(np.int32))
masks = functools.partial(Draw, make=some_masked)
targets = functools.partial(Draw, make=some_missing)


@dataclasses.dataclass(frozen=True)
class Loss:
    """One function, and what the contract says of its arguments, by position."""

    name: str
    arguments: tuple
    moves: tuple[int, ...] = ()  # have a gradient
    stopped: tuple[int, ...] = ()  # have a gradient of zero
    held: tuple[int, ...] = ()  # also serve as a target, there without gradient: the reference takes them a second time
    temperature: int | None = None
    largest: Callable[[list], float] = lambda arguments: 0.0  # logit, in units of the loss; float32 resolves the loss no finer
    exponent: Callable[[list], float] = lambda arguments: 0.0  # largest, of a target that is not certain; float32 knows the target no better

    def __str__(self):
        return self.name.replace(".", "-")

    @property
    def reference(self) -> Callable:
        return getattr(reference_losses, self.name.partition(".")[2])


def of_cosines(position: int) -> dict:
    return {"temperature": position, "largest": lambda arguments: 1 / arguments[position]}


def of_scores(scores: int, position: int) -> dict:
    return {"temperature": position, "largest": lambda arguments: np.max(np.abs(arguments[scores])) / arguments[position]}


PAIR, FOUR = (real("bd"), real("bd")), (real("bd"),) * 4
LOSSES = [
    Loss("dino.dino_loss", (real("vbk"), real("tbk"), real("k"), 0.1, 0.04), (0,), (1, 2), **of_scores(0, 3)),
    Loss("dino.new_centre", (real("k"), real("tbk"), 0.9)),
    Loss("dino.koleo", (real("bd"),), (0,)),
    Loss("barlow_twins.barlow_loss", (*PAIR, 0.0051), (0, 1)),
    Loss("vicreg.vicreg_loss", (*PAIR, 25.0, 20.0, 1.5), (0, 1)),
    Loss("moco.moco_loss", (*PAIR, unit("nd"), 0.2), (0,), **of_cosines(3)),
    Loss("moco_v3.moco_v3_loss", (*FOUR, 0.2), (0, 1), (2, 3), temperature=4),
    Loss("simclr.nt_xent", (*PAIR, 0.1), (0, 1), **of_cosines(2)),
    Loss("byol.byol_loss", FOUR, (0, 1), (2, 3)),
    Loss("simsiam.simsiam_loss", FOUR, (0, 1), (2, 3)),
    Loss("swav.sinkhorn", (unit("bk"), 0.05, 3)),
    Loss("swav.swav_loss", (real("vbk"), 0.1, 0.3, 3), (0,), held=(0,), exponent=lambda a: np.max(np.abs(a[0])) / a[2], **of_scores(0, 1)),
    Loss("data2vec.average_targets", (real("lbnd"),)),
    Loss("data2vec.smooth_l1", (real("bnd"), real("bnd"), 1.5, masks("bn")), (0,)),
    Loss("decur.decur_loss", (*FOUR, 3, 0.0051), (0, 1, 2, 3)),
    Loss("decur.decur_loss", (*FOUR, 4, 0.0051), (0, 1, 2, 3)),
    Loss("clip.clip_loss", (*PAIR, 0.07), (0, 1), **of_cosines(2)),
    Loss("semi_supervised.soft_labels", (real("bd"), real("md"), one_hot("mk"), 0.1), (0, 1), **of_cosines(3)),
    Loss("semi_supervised.sharpen", (probable("bk"), 0.25), (0,)),
    Loss("semi_supervised.view_assignment_loss", (probable("bk"), probable("bk"), 0.25), (0, 1), held=(0, 1)),
    Loss("supervised.cross_entropy", (real("bnk"), classes("bn")), (0,)),
    Loss("supervised.multi_label", (real("bk"), binary("bk")), (0,)),
    Loss("supervised.regression", (real("bk"), targets("bk")), (0,)),
]


def drawn(loss: Loss, sizes: dict = SIZES) -> list:
    """The arguments: arrays of float64 that float32 holds exactly, and numbers as they are."""
    rng = np.random.default_rng(11)
    return [rounded(a.make(rng, tuple(sizes[letter] for letter in a.axes))) if isinstance(a, Draw) else a for a in loss.arguments]


def rounded(x: np.ndarray, dtype=np.float32) -> np.ndarray:
    return x.astype(dtype).astype(np.float64) if x.dtype == np.float64 else x


def changed(loss: Loss, change: Callable[[np.ndarray], np.ndarray]) -> list:
    return [rounded(change(x)) if getattr(a, "make", None) is normal else x for a, x in zip(loss.arguments, drawn(loss), strict=True)]


def loss_named(name: str) -> Loss:
    return next(loss for loss in LOSSES if loss.name == name)


# --- the nasty inputs


def random(loss):
    return drawn(loss)


def two_rows(loss):
    return drawn(loss, {**SIZES, "b": 2})


def identical_views(loss):
    """Whatever is drawn alike over the same last two axes is equal."""
    arguments, first = drawn(loss), {}
    for i, argument in enumerate(loss.arguments):
        if isinstance(argument, Draw) and arguments[i].dtype == np.float64:
            same = first.setdefault((argument.axes[-2:], argument.make), arguments[i][(0,) * (arguments[i].ndim - 2)])
            arguments[i] = np.broadcast_to(same, arguments[i].shape).copy()
    return arguments


def constant_columns(loss):
    return changed(loss, lambda x: np.concatenate([np.full_like(x[..., :1], 0.7), x[..., 1:]], axis=-1))


def zero_rows(loss):
    return changed(loss, lambda x: x * (np.arange(x.shape[-2]) > 0)[:, None] if x.ndim > 1 else x)


def large(loss):
    return changed(loss, lambda x: 1e4 * x)


def cold(loss):
    """Logits of 1e4 and more from vectors of length one, through the temperature."""
    return [1e-4 if i == loss.temperature else x for i, x in enumerate(drawn(loss))]


# --- what comes out


@functools.cache
def compiled(loss: Loss, numbers: tuple[int, ...]) -> Callable:
    """arguments -> (output, gradients of its weighted sum); numbers at these positions stay numbers."""
    module, _, name = loss.name.partition(".")
    function = getattr(importlib.import_module(f"eo_jax.objectives.{module}"), name)

    def weighted(*arguments):
        out = function(*arguments)
        return jnp.sum(out * weights(out.shape)), out

    if not loss.moves:
        return jax.jit(lambda *arguments: (weighted(*arguments)[1], ()), static_argnums=numbers, compiler_options=FAST)
    gradients = jax.grad(weighted, loss.moves + loss.stopped, has_aux=True)
    return jax.jit(lambda *arguments: gradients(*arguments)[::-1], static_argnums=numbers, compiler_options=FAST)


def weights(shape: tuple[int, ...]) -> np.ndarray:
    """1 for a scalar; for arrays something no sum is blind to."""
    return np.cos(np.arange(np.prod(shape, dtype=int)), dtype=np.float32).reshape(shape)


def found(loss: Loss, arguments: list, dtype=np.float32) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """The output of the function under test, and its gradient by position."""
    numbers = tuple(i for i, x in enumerate(arguments) if not isinstance(x, np.ndarray))
    out, gradients = compiled(loss, numbers)(*(jnp.asarray(x, dtype) if getattr(x, "dtype", None) == np.float64 else x for x in arguments))
    assert out.dtype == jnp.float32
    assert np.all(np.isfinite(out))
    gradients = {i: np.asarray(g, np.float64) for i, g in zip(loss.moves + loss.stopped, gradients, strict=True)}
    assert all(np.all(np.isfinite(g)) for g in gradients.values())
    return np.asarray(out, np.float64), gradients


def expected(loss: Loss, arguments: list) -> np.ndarray:
    return np.asarray(loss.reference(*arguments))


def central_differences(loss: Loss, arguments: list, position: int) -> np.ndarray:
    fixed, gradient = [arguments[i] for i in loss.held], np.empty_like(arguments[position])
    for index in np.ndindex(gradient.shape):
        sides = []
        for step in (STEP, -STEP):
            moved = arguments[position].copy()
            moved[index] += step
            out = loss.reference(*arguments[:position], moved, *arguments[position + 1 :], *fixed)
            sides.append(np.sum(out * weights(np.shape(out))))
        gradient[index] = (sides[0] - sides[1]) / (2 * STEP)
    return gradient


def assert_near(value, wanted, tolerance: float, floor: float = 0.0):
    np.testing.assert_allclose(value, wanted, rtol=0, atol=tolerance * max(1.0, np.max(np.abs(wanted), initial=0)) + floor)


# --- values and gradients


@pytest.mark.parametrize("nasty", [random, two_rows, identical_views, constant_columns, zero_rows])
@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_values_and_gradients_are_those_of_the_paper(loss, nasty):
    arguments = nasty(loss)
    value, gradients = found(loss, arguments)
    assert_near(value, expected(loss, arguments), VALUE)
    for i in loss.moves:
        rows = np.any(arguments[i] != 0, axis=-1)  # the direction of a zero row has no derivative; `found` wants it finite
        assert_near(gradients[i][rows], central_differences(loss, arguments, i)[rows], GRADIENT)
    assert not any(np.any(gradients[i]) for i in loss.stopped)


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_large_inputs_are_as_exact_as_float32_can_be(loss):
    arguments = large(loss)
    value, gradients = found(loss, arguments)
    # The losses are sums of target times something positive, so what a target is off by, as a share of it, bounds the share of the sum.
    share = 8 * RESOLUTION * loss.exponent(arguments)
    assert_near(value, expected(loss, arguments), VALUE + share, floor=8 * RESOLUTION * loss.largest(arguments))
    for i in loss.moves:
        assert_near(gradients[i], central_differences(loss, arguments, i), GRADIENT + share)


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss.temperature], ids=str)
def test_large_logits_are_as_exact_as_float32_can_be(loss):
    arguments = cold(loss)
    assert_near(found(loss, arguments)[0], expected(loss, arguments), VALUE, floor=8 * RESOLUTION * loss.largest(arguments))


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_bfloat16_inputs_are_cast_before_any_mathematics(loss):
    arguments = [rounded(x, ml_dtypes.bfloat16) if isinstance(x, np.ndarray) else x for x in drawn(loss)]
    assert_near(found(loss, arguments, jnp.bfloat16)[0], expected(loss, arguments), VALUE)


# --- inputs that are nasty for one loss only


@pytest.mark.parametrize("name", ["barlow_twins.barlow_loss", "vicreg.vicreg_loss", "decur.decur_loss"])
def test_columns_far_from_zero_keep_their_variance(name):
    loss = loss_named(name)
    arguments = changed(loss, lambda x: x + 100 * (np.arange(x.shape[-1]) % 2))
    value, gradients = found(loss, arguments)
    assert_near(value, expected(loss, arguments), VALUE)
    assert_near(gradients[0], central_differences(loss, arguments, 0), GRADIENT)


def test_koleo_of_equal_rows_is_finite_and_pushes_finitely():
    loss = loss_named("dino.koleo")
    (x,) = drawn(loss)
    x[1] = x[0]
    value, _ = found(loss, [x])
    assert_near(value, expected(loss, [x]), VALUE)
    assert value > 2 / 5 * 18.4 - 1  # two rows at distance 0, -log 1e-8 each; the other three are less than e apart
    x[2] = x[3] = 0
    found(loss, [x])  # wants all of it finite


def test_sinkhorn_with_a_prototype_that_nobody_uses():
    loss = loss_named("swav.sinkhorn")
    scores, epsilon, iterations = drawn(loss)
    scores[:, 1] = -1.0
    assert_near(found(loss, [scores, epsilon, iterations])[0], expected(loss, [scores, epsilon, iterations]), VALUE)


@pytest.mark.parametrize(("where", "score"), [((slice(None), 1), -1e4), (0, 1e4), ((0, 2), 1e4)], ids=["prototype", "sample", "pair"])
def test_sinkhorn_serves_every_sample_whatever_the_scores(where, score):
    loss = loss_named("swav.sinkhorn")
    scores, epsilon, iterations = drawn(loss)
    scores[where] = score
    np.testing.assert_allclose(found(loss, [scores, epsilon, iterations])[0].sum(axis=1), 1.0, atol=VALUE)


def test_soft_labels_at_a_support_row_are_its_label():
    loss = loss_named("semi_supervised.soft_labels")
    _, support, labels, _ = drawn(loss)
    value, _ = found(loss, [3.0 * support[[2, 0, 1, 1, 2]], support, labels, 0.01])
    np.testing.assert_allclose(value, labels[[2, 0, 1, 1, 2]], atol=1e-3)


@pytest.mark.parametrize("labels", [(0, 1, 2, 3, 0), (0, 0, 0, 0, 0)])
def test_view_assignment_of_certain_predictions_is_less_the_entropy_of_their_mean(labels):
    loss = loss_named("semi_supervised.view_assignment_loss")
    certain = np.eye(4)[list(labels)]
    arguments = [certain, certain.copy(), 0.25]
    value, gradients = found(loss, arguments)
    assert_near(value, expected(loss, arguments), VALUE)
    assert_near(gradients[0], central_differences(loss, arguments, 0), GRADIENT)


def test_view_assignment_with_a_class_that_no_support_row_has():
    loss = loss_named("semi_supervised.view_assignment_loss")
    arguments = [np.insert(p[:, :3] / p[:, :3].sum(axis=1, keepdims=True), 1, 0.0, axis=1) for p in drawn(loss)[:2]]
    arguments = [*map(rounded, arguments), 0.25]
    value, gradients = found(loss, arguments)
    assert_near(value, expected(loss, arguments), VALUE)
    assert_near(gradients[1], central_differences(loss, arguments, 1), GRADIENT)


def test_certain_views_that_disagree_have_a_finite_loss():
    loss = loss_named("semi_supervised.view_assignment_loss")
    value, _ = found(loss, [np.eye(4)[[0, 1, 2, 3, 0]], np.eye(4)[[1, 2, 3, 0, 1]], 0.25])
    assert value > 1


@pytest.mark.parametrize(("name", "missing"), [("supervised.cross_entropy", 0), ("supervised.regression", np.nan)])
def test_without_any_label_the_loss_and_its_gradient_are_zero(name, missing):
    loss = loss_named(name)
    predicted, label = drawn(loss)
    value, gradients = found(loss, [predicted, np.full_like(label, missing)])
    assert value == 0
    assert not np.any(gradients[0])


# --- the reference itself, against what is known by hand


def test_reference_contrastive_losses_of_orthogonal_pairs():
    eye = np.eye(2)
    assert reference_losses.nt_xent(eye, 5 * eye, 1.0) == pytest.approx(np.log(np.e + 2) - 1)
    assert reference_losses.clip_loss(eye, 5 * eye, 1.0) == pytest.approx(np.log(np.e + 1) - 1)
    assert reference_losses.moco_loss(eye, 5 * eye, -eye, 1.0) == pytest.approx(np.log(np.e + 1 + 1 / np.e) - 1)
    assert reference_losses.moco_v3_loss(eye, eye, eye, 5 * eye, 1.0) == pytest.approx(4 * (np.log(np.e + 1) - 1))


def test_reference_redundancy_losses_of_decorrelated_columns():
    z = np.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    assert reference_losses.barlow_loss(z, 7 * z + 3, 1.0) == pytest.approx(0, abs=1e-9)
    assert reference_losses.barlow_loss(z, -z, 1.0) == pytest.approx(8, rel=1e-4)
    assert reference_losses.decur_loss(z, z, z, z, 2, 1.0) == pytest.approx(0, abs=1e-9)
    assert reference_losses.decur_loss(z, z, z, z, 1, 1.0) == pytest.approx(1 / 6, rel=1e-4)
    assert reference_losses.vicreg_loss(z, z, 25.0, 25.0, 1.0) == 0
    assert reference_losses.vicreg_loss(z, 0 * z, 1.0, 0.0, 0.0) == 1
    assert reference_losses.vicreg_loss(0 * z, 0 * z, 0.0, 1.0, 0.0) == pytest.approx(0.99)


def test_reference_assignments_have_the_marginals_of_the_transport_polytope():
    q = reference_losses.sinkhorn(np.random.default_rng(0).normal(size=(6, 4)), 0.5, 200)
    np.testing.assert_allclose(q.sum(axis=1), 1)
    np.testing.assert_allclose(q.sum(axis=0), 6 / 4)


def test_reference_self_distillation_losses():
    x = np.random.default_rng(0).normal(size=(5, 4))
    assert reference_losses.byol_loss(x, x, 9 * x, 2 * x) == pytest.approx(0)
    assert reference_losses.byol_loss(x, x, -x, -x) == pytest.approx(8)
    assert reference_losses.simsiam_loss(x, -x, -2 * x, 3 * x) == pytest.approx(-1)
    assert reference_losses.koleo(3 * np.eye(4)) == pytest.approx(-np.log(np.sqrt(2)))
    zero = np.zeros((3, 5, 4))
    assert reference_losses.dino_loss(zero, zero[:2], np.arange(4.0), 0.1, 0.04) == pytest.approx(np.log(4))
    assert reference_losses.view_assignment_loss(np.eye(4), np.eye(4), 0.25) == pytest.approx(-np.log(4))
