"""Jitter of brightness and contrast, in its two kinds; see `CropSet.jitter`."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from eo_jax.augment import photometric, radiometry
from eo_jax.augment.chances import Uniforms, bernoulli, uniform
from eo_jax.augment.crops import CropSet
from eo_jax.augment.photometric import Valid, Values
from eo_jax.sensors import Sensor

# From digital numbers [..., c] to normalised values.
Normalise = Callable[[np.ndarray], np.ndarray]


def multiplicative(
    z: Values, valid: Valid, crop: CropSet, sensor: Sensor, normalised: Normalise, draws: Uniforms
) -> Values:
    """Brightness on physical values and contrast about the mean of the view: both or neither."""

    def factor(name):
        applied = bernoulli(draws["jitter"], crop.jitter_prob)
        return jnp.where(applied, uniform(draws[name], getattr(crop, name)), 1.0)

    if tuple(crop.brightness) != (1, 1):
        zero, lit = normalised(radiometry.physical_zero(sensor)), radiometry.reflective(sensor)
        z = photometric.brightness(z, valid, factor("brightness"), zero, lit)
    if tuple(crop.contrast) != (1, 1):
        z = photometric.contrast(z, valid, factor("contrast"))
    return z


def additive(
    z: Values, valid: Valid, crop: CropSet, sensor: Sensor, normalised: Normalise, draws: Uniforms
) -> Values:
    """kornia's: brightness adds, contrast multiplies, each clips, each by a decision of its own."""
    limits = normalised(np.array(radiometry.physical_ranges(sensor)).T)
    if tuple(crop.brightness) != (1, 1):
        applied = bernoulli(draws["jitter"], crop.jitter_prob)
        amount = uniform(draws["brightness"], crop.brightness) - 1
        z = photometric.shift(z, valid, amount, applied, *limits)
    if tuple(crop.contrast) != (1, 1):
        applied = bernoulli(draws["contrast_jitter"], crop.jitter_prob)
        factor = uniform(draws["contrast"], crop.contrast)
        z = photometric.stretch(z, valid, factor, applied, *limits)
    return z


JITTERS = {"multiplicative": multiplicative, "additive": additive}
