"""What figures of a run show, as numbers."""

from __future__ import annotations

import numpy as np

SIDE = 28  # pixels of an image's side


def segregation(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Measure how differently two tasks use a layer, from the units' shares a and b, (units,) each.

    `selectivity` is the mean of |a - b| / (a + b) over the units active at all, high for units that
    are rarely active; `gap` the mean of |a - b| over all units, high for units that are often
    active; `exclusive` the share of all units whose selectivity is above 0.9, so that one task
    activates them at least 19 times as often as the other.
    """
    gap, total = np.abs(first - second), first + second
    selectivity = np.divide(gap, total, out=np.full(len(gap), np.nan), where=total > 0)
    return {
        "selectivity": float(np.nanmean(selectivity)),
        "gap": float(gap.mean()),
        "exclusive": float((selectivity > 0.9).mean()),
    }


def field_spread(weights: np.ndarray) -> np.ndarray:
    """Measure how far each receptive field spreads, in pixels: weights (784, units) to (units,).

    The root mean square distance from its centre, both weighted by the squared weights: 11.4 for
    energy spread evenly over the image, smaller for a localised field, nan for weights all zero.
    """
    energy = np.square(weights, dtype=float)
    total = energy.sum(axis=0)
    energy = np.divide(energy, total, out=np.full_like(energy, np.nan), where=total > 0)
    grid = np.indices((SIDE, SIDE)).reshape(2, SIDE * SIDE, 1)
    centre = (grid * energy).sum(axis=1, keepdims=True)
    return np.sqrt(((grid - centre) ** 2 * energy).sum(axis=(0, 1)))
