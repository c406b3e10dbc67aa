"""The loss functions of every objective with inputs, easy and nasty, and how far values and
gradients are from the papers' in float64.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import reference
import reference_losses

SIZES = {
    "b": 5,
    "d": 4,
    "k": 4,
    "n": 6,
    "m": 3,
    "v": 3,
    "t": 2,
    "l": 2,
    "o": 0,
}  # t: teacher's views, m: support rows, o: an empty queue
STEP = 1e-6  # of central differences

FAST = {"xla_backend_optimization_level": 0}  # compiling is most of the time

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
unit = functools.partial(
    Draw, make=lambda rng, shape: reference_losses.normalise(rng.normal(size=shape))
)
probable = functools.partial(Draw, make=probabilities)
one_hot = functools.partial(
    Draw, make=lambda rng, shape: np.eye(shape[1])[np.arange(shape[0]) % shape[1]]
)
binary = functools.partial(
    Draw, make=lambda rng, shape: (rng.random(shape) < 0.5).astype(np.float64)
)
classes = functools.partial(
    Draw, make=lambda rng, shape: np.resize([1, 0, SIZES["k"], 2], shape).astype(np.int32)
)
masks = functools.partial(Draw, make=some_masked)
targets = functools.partial(Draw, make=some_missing)


@dataclasses.dataclass(frozen=True)
class Loss:
    """One function, and the contract of its arguments, by position."""

    name: str
    arguments: tuple
    moves: tuple[int, ...] = ()  # have a gradient
    stopped: tuple[int, ...] = ()  # have a gradient of zero
    held: tuple[
        int, ...
    ] = ()  # also serve as a target, there without gradient: the reference takes them a second time
    temperature: int | None = None
    largest: Callable[[list], float] = lambda arguments: (
        0.0
    )  # logit, in units of the loss; float32 resolves the loss no finer
    exponent: Callable[[list], float] = lambda arguments: (
        0.0
    )  # largest, of a target that is not certain; float32 knows the target no better
    terms: int = 1  # losses that it adds up: what float32 leaves of sums that cancel adds up, too

    def __str__(self):
        return self.name.replace(".", "-")

    @property
    def reference(self) -> Callable:
        return getattr(
            reference if self.objective == "mae" else reference_losses, self.name.partition(".")[2]
        )

    @property
    def function(self) -> Callable:
        return getattr(
            importlib.import_module(f"eo_jax.objectives.{self.objective}"),
            self.name.partition(".")[2],
        )

    @property
    def objective(self) -> str:
        return self.name.partition(".")[0]


def of_cosines(position: int) -> dict:
    return {"temperature": position, "largest": lambda arguments: 1 / arguments[position]}


def of_scores(scores: int, position: int) -> dict:
    return {
        "temperature": position,
        "largest": lambda arguments: np.max(np.abs(arguments[scores])) / arguments[position],
    }


# The sharpest assignment, of the batch or the queue: how far its exponents go.
of_assignments = {
    "exponent": lambda a: np.max(np.abs(np.concatenate([x.ravel() for x in a[:2]]))) / a[3]
}

PAIR, FOUR = (real("bd"), real("bd")), (real("bd"),) * 4
WIDE, FOUR_WIDE = (real("ld"),) * 2, (real("ld"),) * 4  # half as many samples as dimensions
LOSSES = [
    Loss(
        "dino.dino_loss",
        (real("vbk"), real("tbk"), real("k"), 0.1, 0.04),
        (0,),
        (1, 2),
        **of_scores(0, 3),
    ),
    Loss("dino.new_centre", (real("k"), real("tbk"), 0.9)),
    Loss("dino.koleo", (real("bd"),), (0,)),
    Loss("barlow_twins.barlow_loss", (*PAIR, 0.0051), (0, 1)),
    Loss("barlow_twins.barlow_loss", (*WIDE, 0.0051), (0, 1)),
    Loss("vicreg.vicreg_loss", (*PAIR, 25.0, 20.0, 1.5), (0, 1)),
    Loss("vicreg.vicreg_loss", (*WIDE, 25.0, 20.0, 1.5), (0, 1)),
    Loss("moco.moco_loss", (*PAIR, unit("nd"), 0.2), (0,), **of_cosines(3)),
    Loss("moco_v3.moco_v3_loss", (*FOUR, 0.2), (0, 1), (2, 3), temperature=4),
    Loss("simclr.nt_xent", (*PAIR, 0.1), (0, 1), **of_cosines(2)),
    Loss("byol.byol_loss", FOUR, (0, 1), (2, 3)),
    Loss("simsiam.simsiam_loss", FOUR, (0, 1), (2, 3)),
    Loss("swav.sinkhorn", (unit("bk"), 0.05, 3)),
    Loss(
        "swav.swav_loss",
        (real("vbk"), real("tok"), 0.1, 0.3, 3),
        (0,),
        (1,),
        held=(0,),
        **of_scores(0, 2),
        **of_assignments,
    ),
    Loss(
        "swav.swav_loss",
        (real("vbk"), real("tnk"), 0.1, 0.3, 3),
        (0,),
        (1,),
        held=(0,),
        **of_scores(0, 2),
        **of_assignments,
    ),
    Loss("data2vec.average_targets", (real("lbnd"),)),
    Loss("data2vec.smooth_l1", (real("bnd"), real("bnd"), 1.5, masks("bn")), (0,)),
    Loss("decur.decur_loss", (*FOUR, 3, 0.0051), (0, 1, 2, 3), terms=4),
    Loss("decur.decur_loss", (*FOUR, 4, 0.0051), (0, 1, 2, 3), terms=4),
    Loss("decur.decur_loss", (*FOUR_WIDE, 3, 0.0051), (0, 1, 2, 3), terms=4),
    Loss("clip.clip_loss", (*PAIR, 0.07), (0, 1), **of_cosines(2)),
    Loss(
        "semi_supervised.soft_labels",
        (real("bd"), real("md"), one_hot("mk"), 0.1),
        (0, 1),
        **of_cosines(3),
    ),
    Loss("semi_supervised.sharpen", (probable("bk"), 0.25), (0,)),
    Loss(
        "semi_supervised.view_assignment_loss",
        (probable("bk"), probable("bk"), 0.25),
        (0, 1),
        held=(0, 1),
    ),
    Loss("supervised.cross_entropy", (real("bnk"), classes("bn")), (0,)),
    Loss("supervised.multi_label", (real("bk"), binary("bk")), (0,)),
    Loss("supervised.regression", (real("bk"), targets("bk")), (0,)),
]


# Not among the others: its inputs are in float32 already.
MASKED_ERROR = Loss("mae.masked_error", (real("bnvld"), real("bnvld"), masks("bnvld")), (0,))


def drawn(loss: Loss, sizes: dict = SIZES) -> list:
    """The arguments: arrays of float64 that float32 holds exactly, and numbers as they are."""
    rng = np.random.default_rng(11)
    return [
        rounded(a.make(rng, tuple(sizes[letter] for letter in a.axes)))
        if isinstance(a, Draw)
        else a
        for a in loss.arguments
    ]


def rounded(x: np.ndarray, dtype=np.float32) -> np.ndarray:
    return x.astype(dtype).astype(np.float64) if x.dtype == np.float64 else x


def changed(loss: Loss, change: Callable[[np.ndarray], np.ndarray]) -> list:
    return [
        rounded(change(x)) if getattr(a, "make", None) is normal else x
        for a, x in zip(loss.arguments, drawn(loss), strict=True)
    ]


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
            same = first.setdefault(
                (argument.axes[-2:], argument.make), arguments[i][(0,) * (arguments[i].ndim - 2)]
            )
            arguments[i] = np.broadcast_to(same, arguments[i].shape).copy()
    return arguments


def constant_columns(loss):
    return changed(
        loss, lambda x: np.concatenate([np.full_like(x[..., :1], 0.7), x[..., 1:]], axis=-1)
    )


def equal_rows(loss):
    """A collapsed batch: every sample has the embedding of the first. Distances between rows then
    have no gradient: KoLeo is tested by itself.
    """
    if loss.name == "dino.koleo":
        return drawn(loss)
    return changed(
        loss,
        lambda x: np.broadcast_to(x[..., :1, :], x.shape).copy() if x.ndim > 1 and x.size else x,
    )


def zero_rows(loss):
    return changed(loss, lambda x: x * (np.arange(x.shape[-2]) > 0)[:, None] if x.ndim > 1 else x)


def large(loss):
    return changed(loss, lambda x: 1e4 * x)


def cold(loss):
    """Logits of 1e4 and more from vectors of length one, through the temperature."""
    return [1e-4 if i == loss.temperature else x for i, x in enumerate(drawn(loss))]


NASTY = (random, two_rows, identical_views, constant_columns, equal_rows, zero_rows)


# --- what comes out


@functools.cache
def compiled(loss: Loss, numbers: tuple[int, ...]) -> Callable:
    """arguments -> (output, gradients of its weighted sum); numbers at these positions stay
    numbers.
    """

    def weighted(*arguments):
        out = loss.function(*arguments)
        return jnp.sum(out * weights(out.shape)), out

    if not loss.moves:
        return jax.jit(
            lambda *arguments: (weighted(*arguments)[1], ()),
            static_argnums=numbers,
            compiler_options=FAST,
        )
    gradients = jax.grad(weighted, loss.moves + loss.stopped, has_aux=True)
    return jax.jit(
        lambda *arguments: gradients(*arguments)[::-1],
        static_argnums=numbers,
        compiler_options=FAST,
    )


def weights(shape: tuple[int, ...]) -> np.ndarray:
    """1 for a scalar; for arrays something no sum is blind to."""
    return np.cos(np.arange(np.prod(shape, dtype=int)), dtype=np.float32).reshape(shape)


def found(
    loss: Loss, arguments: list, dtype=np.float32
) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """The output of the function under test, and its gradient by position."""
    numbers = tuple(i for i, x in enumerate(arguments) if not isinstance(x, np.ndarray))
    out, gradients = compiled(loss, numbers)(
        *(
            jnp.asarray(x, dtype) if getattr(x, "dtype", None) == np.float64 else x
            for x in arguments
        )
    )
    assert out.dtype == jnp.float32
    assert np.all(np.isfinite(out))
    gradients = {
        i: np.asarray(g, np.float64)
        for i, g in zip(loss.moves + loss.stopped, gradients, strict=True)
    }
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
            out = np.asarray(
                loss.reference(*arguments[:position], moved, *arguments[position + 1 :], *fixed)
            )
            sides.append(np.sum(out * weights(np.shape(out))))
        gradient[index] = (sides[0] - sides[1]) / (2 * STEP)
    return gradient


def unit_of(wanted: np.ndarray, least: float = 1.0) -> float:
    """What deviations are relative to: the largest value, or `least` where all are smaller."""
    return max(least, np.max(np.abs(wanted), initial=0))


def deviation(value: np.ndarray, wanted: np.ndarray, least: float) -> float:
    """Largest distance, relative to `unit_of`."""
    return float(np.max(np.abs(value - wanted), initial=0) / unit_of(wanted, least))


def deviations(
    loss: Loss, arguments: list, least: tuple[float, float] = (1.0, 1.0)
) -> tuple[float, float]:
    """(of the value, of all gradients) from the paper's. What carries no gradient has one of
    exactly 0, or the second is infinite.

    Args:
        least: units of values, and of gradients, that are smaller: below them is what float32
            leaves of sums that cancel.
    """
    value, gradients = found(loss, arguments)
    apart = [np.inf if any(np.any(gradients[i]) for i in loss.stopped) else 0.0]
    for i in loss.moves:
        rows = np.any(
            arguments[i] != 0, axis=-1
        )  # the direction of a zero row has no derivative; `found` wants it finite
        apart.append(
            deviation(gradients[i][rows], central_differences(loss, arguments, i)[rows], least[1])
        )
    return deviation(value, expected(loss, arguments), least[0]), float(np.max(apart))
