"""Tests of the loss functions in `eo_jax.objectives`: values and gradients against the papers in
float64, on nasty inputs too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import reference_losses
from loss_cases import (
    LOSSES,
    MASKED_ERROR,
    NASTY,
    central_differences,
    changed,
    cold,
    deviations,
    drawn,
    expected,
    found,
    large,
    loss_named,
    rounded,
    unit_of,
)

from eo_jax.models.heads import cosines

VALUE, GRADIENT = 1e-5, 1e-4  # relative tolerances
LEAST = np.array(
    [0.1, 0.01]
)  # units of values and of gradients that are smaller than that, for each term of a loss
RESOLUTION = 2.0**-24  # half a unit in the last place of float32


def assert_near(value, wanted, tolerance: float, floor: float = 0.0):
    np.testing.assert_allclose(value, wanted, rtol=0, atol=tolerance * unit_of(wanted) + floor)


# --- values and gradients


@pytest.mark.parametrize("nasty", NASTY)
@pytest.mark.parametrize("loss", [*LOSSES, MASKED_ERROR], ids=str)
def test_values_and_gradients_are_those_of_the_paper(loss, nasty):
    value, gradient = deviations(loss, nasty(loss), loss.terms * LEAST)
    assert value <= VALUE and gradient <= GRADIENT


def test_koleo_of_equal_rows_is_large_and_finite_and_has_no_gradient():
    loss, rows = (
        loss_named("dino.koleo"),
        np.broadcast_to(rounded(np.array([0.3, -0.4, 0.5, 0.1])), (5, 4)).copy(),
    )
    value, gradients = found(loss, [rows])
    assert value == pytest.approx(-np.log(1e-8), rel=1e-5) and value == pytest.approx(
        float(expected(loss, [rows])), rel=1e-5
    )
    assert not gradients[0].any()


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_large_inputs_are_as_exact_as_float32_can_be(loss):
    arguments = large(loss)
    value, gradients = found(loss, arguments)
    # The losses are sums of target times something positive, so the relative error of a target
    # bounds that of the sum.
    share = 8 * RESOLUTION * loss.exponent(arguments)
    assert_near(
        value,
        expected(loss, arguments),
        VALUE + share,
        floor=8 * RESOLUTION * loss.largest(arguments),
    )
    for i in loss.moves:
        assert_near(gradients[i], central_differences(loss, arguments, i), GRADIENT + share)


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss.temperature], ids=str)
def test_large_logits_are_as_exact_as_float32_can_be(loss):
    arguments = cold(loss)
    value, gradients = found(loss, arguments)
    assert_near(
        value, expected(loss, arguments), VALUE, floor=8 * RESOLUTION * loss.largest(arguments)
    )
    # A softmax of such logits is 0 or 1 but where two of them lie together, and there its slope is
    # 1 / temperature.
    assert all(
        np.abs(gradient).max(initial=0) <= 10 / arguments[loss.temperature]
        for gradient in gradients.values()
    )


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_bfloat16_inputs_are_cast_before_any_mathematics(loss):
    arguments = [
        rounded(x, ml_dtypes.bfloat16) if isinstance(x, np.ndarray) else x for x in drawn(loss)
    ]
    value, gradients = found(loss, arguments, jnp.bfloat16)
    assert_near(value, expected(loss, arguments), VALUE)
    for i in loss.moves:  # a gradient has the type of its argument, whose resolution is 2^-8
        assert_near(gradients[i], central_differences(loss, arguments, i), GRADIENT + 2.0**-8)


@pytest.mark.parametrize("loss", [*LOSSES, MASKED_ERROR], ids=str)
def test_products_keep_float32_on_matrix_units(loss):
    """By default these take fewer bits, which no test on a CPU would see."""
    arguments = [
        jnp.asarray(x, jnp.float32) if getattr(x, "dtype", None) == np.float64 else x
        for x in drawn(loss)
    ]
    assert precisions_of(loss.function, arguments) <= {EXACT}


def test_cosines_with_prototypes_keep_float32_on_matrix_units():
    assert precisions_of(cosines, [jnp.ones((3, 4)), jnp.ones((4, 5))]) == {EXACT}
    assert precisions_of(lambda x: x @ x.T, [jnp.ones((3, 4))]) == {None}  # the default


EXACT = (jax.lax.Precision.HIGHEST,) * 2


def precisions_of(function: Callable, arguments: list) -> set:
    """The precisions of all matrix products of a function of arrays and numbers, with those of its
    inner functions.
    """
    numbers = tuple(i for i, x in enumerate(arguments) if not hasattr(x, "dtype"))
    return set(_precisions(jax.make_jaxpr(function, static_argnums=numbers)(*arguments).jaxpr))


def _precisions(jaxpr: Any) -> Iterator:
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation.params["precision"]
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns")):
            if hasattr(inner, "eqns"):
                yield from _precisions(inner)


# --- inputs that are nasty for one loss only


@pytest.mark.parametrize(
    "name", ["barlow_twins.barlow_loss", "vicreg.vicreg_loss", "decur.decur_loss"]
)
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
    assert (
        value > 2 / 5 * 18.4 - 1
    )  # two rows at distance 0, -log 1e-8 each; the other three are less than e apart
    x[2] = x[3] = 0
    found(loss, [x])  # wants all of it finite


def test_sinkhorn_with_a_prototype_that_nobody_uses():
    loss = loss_named("swav.sinkhorn")
    scores, epsilon, iterations = drawn(loss)
    scores[:, 1] = -1.0
    assert_near(
        found(loss, [scores, epsilon, iterations])[0],
        expected(loss, [scores, epsilon, iterations]),
        VALUE,
    )


@pytest.mark.parametrize(
    ("where", "score"),
    [((slice(None), 1), -1e4), (0, 1e4), ((0, 2), 1e4)],
    ids=["prototype", "sample", "pair"],
)
def test_sinkhorn_serves_every_sample_whatever_the_scores(where, score):
    loss = loss_named("swav.sinkhorn")
    scores, epsilon, iterations = drawn(loss)
    scores[where] = score
    np.testing.assert_allclose(
        found(loss, [scores, epsilon, iterations])[0].sum(axis=1), 1.0, atol=VALUE
    )


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
    arguments = [
        np.insert(p[:, :3] / p[:, :3].sum(axis=1, keepdims=True), 1, 0.0, axis=1)
        for p in drawn(loss)[:2]
    ]
    arguments = [*map(rounded, arguments), 0.25]
    value, gradients = found(loss, arguments)
    assert_near(value, expected(loss, arguments), VALUE)
    assert_near(gradients[1], central_differences(loss, arguments, 1), GRADIENT)


def test_parts_of_a_target_below_1e_4_count_as_0():
    """Sharpened, the second class has 1.5e-4 in one row and 6e-5 in the other; the other view would
    pay for either, since it gives that class 1e-9.
    """
    loss = loss_named("semi_supervised.view_assignment_loss")
    p1, p2 = rounded(np.array([[0.9, 0.1], [0.92, 0.08]])), rounded(np.array([[1.0, 1e-9]] * 2))
    sharp1, sharp2 = reference_losses.sharpen(p1, 0.25), reference_losses.sharpen(p2, 0.25)
    kept = np.array([[1, 1], [1, 0]])
    mean = (sharp1 + sharp2).mean(0) / 2
    agree = [
        reference_losses.cross_entropies(sharp2 * [1, 0], p1),
        reference_losses.cross_entropies(sharp1 * kept, p2),
    ]
    wanted = np.mean(agree) - reference_losses.cross_entropies(mean, mean)
    assert found(loss, [p1, p2, 0.25])[0] == pytest.approx(wanted, abs=1e-6)
    assert reference_losses.cross_entropies(sharp1 * (1 - kept), p2).sum() / 4 > 1e-4


def test_certain_views_that_disagree_have_a_finite_loss():
    loss = loss_named("semi_supervised.view_assignment_loss")
    value, _ = found(loss, [np.eye(4)[[0, 1, 2, 3, 0]], np.eye(4)[[1, 2, 3, 0, 1]], 0.25])
    assert value > 1


@pytest.mark.parametrize(
    ("name", "missing"), [("supervised.cross_entropy", 0), ("supervised.regression", np.nan)]
)
def test_without_any_label_the_loss_and_its_gradient_are_zero(name, missing):
    loss = loss_named(name)
    predicted, label = drawn(loss)
    value, gradients = found(loss, [predicted, np.full_like(label, missing)])
    assert value == 0
    assert not np.any(gradients[0])


@pytest.mark.parametrize(
    ("loss", "kept"),
    [
        (MASKED_ERROR, lambda mask: mask),
        (loss_named("data2vec.smooth_l1"), lambda masked: masked[..., None]),
        (loss_named("supervised.regression"), np.isfinite),
        (loss_named("supervised.cross_entropy"), lambda label: (label > 0)[..., None]),
    ],
    ids=["masked error", "smooth L1", "regression", "cross-entropy"],
)
def test_nan_where_nothing_counts_changes_neither_value_nor_gradient(loss, kept):
    clean = drawn(loss)
    counts = kept(clean[-1])
    assert not counts.all()
    unknown = [
        np.where(counts, x, np.nan) if getattr(x, "ndim", 0) == counts.ndim else x
        for x in clean[:-1]
    ]
    (value, gradients), (wanted, true) = found(loss, [*unknown, clean[-1]]), found(loss, clean)
    np.testing.assert_array_equal(value, wanted)
    np.testing.assert_array_equal(gradients[0], true[0])
    assert not gradients[0][~np.broadcast_to(counts, gradients[0].shape)].any()


# --- the reference itself, compared with values known by hand


def test_reference_contrastive_losses_of_orthogonal_pairs():
    eye = np.eye(2)
    assert reference_losses.nt_xent(eye, 5 * eye, 1.0) == pytest.approx(np.log(np.e + 2) - 1)
    assert reference_losses.clip_loss(eye, 5 * eye, 1.0) == pytest.approx(np.log(np.e + 1) - 1)
    assert reference_losses.moco_loss(eye, 5 * eye, -eye, 1.0) == pytest.approx(
        np.log(np.e + 1 + 1 / np.e) - 1
    )
    assert reference_losses.moco_v3_loss(eye, eye, eye, 5 * eye, 1.0) == pytest.approx(
        4 * (np.log(np.e + 1) - 1)
    )


def test_reference_redundancy_losses_of_decorrelated_columns():
    z = np.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    assert reference_losses.barlow_loss(z, 7 * z + 3, 1.0) == pytest.approx(0, abs=1e-9)
    assert reference_losses.barlow_loss(z, -z, 1.0) == pytest.approx(8, rel=1e-4)
    assert reference_losses.decur_loss(z, z, z, z, 2, 1.0) == pytest.approx(0, abs=1e-9)
    assert reference_losses.decur_loss(z, z, z, z, 1, 1.0) == pytest.approx(1, rel=1e-4)
    assert reference_losses.vicreg_loss(z, z, 25.0, 25.0, 1.0) == 0
    assert reference_losses.vicreg_loss(z, 0 * z, 1.0, 0.0, 0.0) == 1
    assert reference_losses.vicreg_loss(0 * z, 0 * z, 0.0, 1.0, 0.0) == pytest.approx(1.98)


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
    assert reference_losses.dino_loss(zero, zero[:2], np.arange(4.0), 0.1, 0.04) == pytest.approx(
        np.log(4)
    )
    assert reference_losses.view_assignment_loss(np.eye(4), np.eye(4), 0.25) == pytest.approx(
        -np.log(4)
    )
