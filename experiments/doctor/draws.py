"""Data of the situations: functions of a seeded generator that return an array [N, ...]."""

from collections.abc import Callable, Sequence

import numpy as np
from sklearn.datasets import load_digits

Draw = Callable[[np.random.Generator], np.ndarray]  # -> [N, D] or images [N, height, width]

# The segments that are on in each digit: top, upper left, upper right, middle, lower left, lower
# right, bottom.
SEGMENTS = (
    "1110111", "0010010", "1011101", "1011011", "0111010",
    "1101011", "1101111", "1010010", "1111111", "1111011",
)  # fmt: skip


# Real tables


def factors(
    num: int, num_dims: int, num_factors: int, *, noise: float = 0.5, tail: float = 0.0
) -> Draw:
    """Returns a draw of a factor model with loadings from N(0, 1), real [N, D].

    Args:
        noise: the scale of the noise.
        tail: the degrees of freedom of the noise, which is Student's t; 0 for Gaussian noise.
    """

    def draw(rng: np.random.Generator) -> np.ndarray:
        loadings, z = rng.normal(size=(num_factors, num_dims)), rng.normal(size=(num, num_factors))
        shape = (num, num_dims)
        errors = rng.standard_t(tail, shape) if tail else rng.normal(size=shape)
        return z @ loadings + rng.normal(size=num_dims) + noise * errors

    return draw


def surface(num: int, num_dims: int, *, noise: float = 0.1, num_coordinates: int = 2) -> Draw:
    """Returns a draw of noisy points on a curved surface, real [N, D]."""

    def draw(rng: np.random.Generator) -> np.ndarray:
        z = rng.normal(size=(num, num_coordinates))
        bends = np.tanh(z @ rng.normal(size=(num_coordinates, 8)) + rng.normal(size=8))
        return bends @ rng.normal(size=(8, num_dims)) + noise * rng.normal(size=(num, num_dims))

    return draw


def clusters(num: int, num_dims: int, num_clusters: int, *, is_sorted: bool = False) -> Draw:
    """Returns a draw of Gaussian clusters with their own spreads, real [N, D].

    Args:
        is_sorted: whether the clusters follow one another in the rows.
    """

    def draw(rng: np.random.Generator) -> np.ndarray:
        names = rng.integers(num_clusters, size=num)
        names = np.sort(names) if is_sorted else names
        centers = 2.0 * rng.normal(size=(num_clusters, num_dims))
        spreads = rng.normal(size=(num_clusters, num_dims, 2)) / 2.0
        within = np.einsum("nk,ndk->nd", rng.normal(size=(num, 2)), spreads[names])
        return centers[names] + within + 0.3 * rng.normal(size=(num, num_dims))

    return draw


def waves(num: int, num_times: int, *, noise: float = 0.1) -> Draw:
    """Returns a draw of sine waves of random frequency, phase, amplitude and level, real [N, T]."""

    def draw(rng: np.random.Generator) -> np.ndarray:
        times = np.linspace(0.0, 2.0 * np.pi, num_times)
        frequencies = rng.uniform(0.5, 2.0, size=(num, 1))
        phases = rng.uniform(0.0, np.pi, size=(num, 1))
        amplitudes = rng.uniform(0.7, 1.3, size=(num, 1))
        levels, errors = rng.normal(size=(num, 1)), rng.normal(size=(num, num_times))
        return levels + amplitudes * np.sin(frequencies * times + phases) + noise * errors

    return draw


def bumps(num: int, num_times: int, *, noise: float = 0.05) -> Draw:
    """Returns a draw of curves with one peak of random place, width and height, real [N, T]."""

    def draw(rng: np.random.Generator) -> np.ndarray:
        times = np.linspace(0.0, 1.0, num_times)
        places, widths = rng.uniform(0.2, 0.8, (num, 1)), rng.uniform(0.05, 0.15, (num, 1))
        peaks = rng.uniform(0.5, 1.5, (num, 1)) * np.exp(-0.5 * ((times - places) / widths) ** 2)
        return peaks + noise * rng.normal(size=(num, num_times))

    return draw


def windows(num: int, width: int) -> Draw:
    """Returns a draw of all windows of one smooth series, each a step after the last, [N, T]."""

    def draw(rng: np.random.Generator) -> np.ndarray:
        steps = np.convolve(rng.normal(size=num + width + 20), np.hanning(22)[1:-1], mode="valid")
        series = np.cumsum(steps - np.mean(steps)) / 10.0
        return np.lib.stride_tricks.sliding_window_view(series, width)[:num].copy()

    return draw


def rings(num: int, num_dims: int, *, noise: float = 0.1, tail: float = 0.0) -> Draw:
    """Returns a draw of noisy points on a closed band, real [N, D].

    Args:
        tail: the degrees of freedom of the noise, which is Student's t; 0 for Gaussian noise.
    """

    def draw(rng: np.random.Generator) -> np.ndarray:
        angles, radii = rng.uniform(0.0, 2.0 * np.pi, num), rng.uniform(0.6, 1.4, num)
        waves = [f(k * angles) for k in (1, 2) for f in (np.cos, np.sin)]
        band = (radii * np.stack(waves)).T
        shape = (num, num_dims)
        errors = rng.standard_t(tail, shape) if tail else rng.normal(size=shape)
        return band @ rng.normal(size=(4, num_dims)) + noise * errors

    return draw


def cohorts(num: int, num_dims: int, num_cohorts: int, *, is_sorted: bool = False) -> Draw:
    """Returns a draw of groups that share two factors and differ in their levels, real [N, D].

    Args:
        is_sorted: whether the groups follow one another in the rows.
    """

    def draw(rng: np.random.Generator) -> np.ndarray:
        names = rng.integers(num_cohorts, size=num)
        names = np.sort(names) if is_sorted else names
        levels = 1.5 * rng.normal(size=(num_cohorts, num_dims))
        common = rng.normal(size=(num, 2)) @ rng.normal(size=(2, num_dims))
        accuracy = rng.uniform(0.3, 0.6, size=num_dims)
        return levels[names] + common + accuracy * rng.normal(size=(num, num_dims))

    return draw


def decays(num: int, num_times: int, *, noise: float = 0.1) -> Draw:
    """Returns a draw of curves that ring and decay from a random time on, real [N, T]."""

    def draw(rng: np.random.Generator) -> np.ndarray:
        starts, rates = rng.uniform(0.0, 0.4, (num, 1)), rng.uniform(1.0, 4.0, (num, 1))
        since = np.maximum(np.linspace(0.0, 1.0, num_times) - starts, 0.0)
        curves = rng.uniform(0.8, 1.6, (num, 1)) * np.exp(-rates * since) * np.sin(9.0 * since)
        return curves + noise * rng.normal(size=curves.shape)

    return draw


def spectra(num: int, num_bands: int, num_parts: int, *, noise: float = 0.02) -> Draw:
    """Returns a draw of mixtures of smooth spectra by random shares, real [N, D]."""

    def draw(rng: np.random.Generator) -> np.ndarray:
        bands = np.linspace(0.0, 1.0, num_bands)
        places, widths = (
            rng.uniform(0.0, 1.0, (num_parts, 1)),
            rng.uniform(0.05, 0.3, (num_parts, 1)),
        )
        parts = np.exp(-0.5 * ((bands - places) / widths) ** 2)
        shares = rng.dirichlet(np.ones(num_parts), size=num)
        return shares @ parts + noise * rng.normal(size=(num, num_bands))

    return draw


def readings(num: int, num_sensors: int) -> Draw:
    """Returns a draw of sensors that change slowly from row to row, real [N, D]."""

    def draw(rng: np.random.Generator) -> np.ndarray:
        times = np.arange(num)[:, None]
        periods, phases = rng.uniform(150.0, 600.0, (2, 6)), rng.uniform(0.0, 6.0, (2, 6))
        states = np.concatenate(
            np.sin(2.0 * np.pi * times[None] / periods[:, None] + phases[:, None]), 1
        )
        errors = 0.02 * rng.normal(size=(num, num_sensors))
        return np.tanh(states @ rng.normal(size=(12, num_sensors)) / 2.0) + errors

    return draw


# Binary data and counts


def digits(num: int, side: int, *, flipped: float = 0.01, is_sorted: bool = False) -> Draw:
    """Returns a draw of seven-segment digits at random places, binary images [N, side, side].

    Args:
        flipped: the fraction of pixels that are inverted.
        is_sorted: whether the digits follow one another in the rows.
    """
    height, width = 2 * ((side - 4) // 2) + 1, (side - 4) // 2 + 1
    middle = height // 2

    def draw(rng: np.random.Generator) -> np.ndarray:
        names = rng.integers(10, size=num)
        names = np.sort(names) if is_sorted else names
        images = np.zeros((num, side, side), np.uint8)
        for image, name in zip(images, names, strict=True):
            top, left = rng.integers(side - height + 1), rng.integers(side - width + 1)
            digit = image[top : top + height, left : left + width]
            strokes = (
                digit[0], digit[: middle + 1, 0], digit[: middle + 1, -1], digit[middle],
                digit[middle:, 0], digit[middle:, -1], digit[-1],
            )  # fmt: skip
            for stroke, is_on in zip(strokes, SEGMENTS[name], strict=True):
                if is_on == "1":
                    stroke[:] = 1
        return images ^ (rng.uniform(size=images.shape) < flipped).astype(np.uint8)

    return draw


def shapes(num: int, side: int, *, is_sorted: bool = False) -> Draw:
    """Returns a draw of filled ellipses and rectangles, binary images [N, side, side].

    Args:
        is_sorted: whether all ellipses come before the rectangles.
    """

    def draw(rng: np.random.Generator) -> np.ndarray:
        is_box = rng.uniform(size=(num, 1, 1)) < 0.4
        is_box = np.sort(is_box, axis=0) if is_sorted else is_box
        down, right = np.arange(side)[None, :, None], np.arange(side)[None, None, :]
        y, x = rng.uniform(0.35, 0.65, size=(2, num, 1, 1)) * side
        height, width = rng.uniform(0.12, 0.32, size=(2, num, 1, 1)) * side
        far, wide = np.abs(down - y) / height, np.abs(right - x) / width
        return np.where(is_box, np.maximum(far, wide) < 0.9, far**2 + wide**2 < 1).astype(np.uint8)

    return draw


def answers(num: int, num_items: int, *, num_traits: int = 2) -> Draw:
    """Returns a draw of yes/no answers that depend on latent traits, binary [N, D]."""

    def draw(rng: np.random.Generator) -> np.ndarray:
        traits = rng.normal(size=(num, num_traits))
        logits = traits @ (2.0 * rng.normal(size=(num_traits, num_items))) + rng.normal(
            size=num_items
        )
        return (rng.uniform(size=logits.shape) < 1.0 / (1.0 + np.exp(-logits))).astype(np.uint8)

    return draw


def topics(num: int, num_words: int, num_topics: int, *, length: float = 80.0) -> Draw:
    """Returns a draw of Poisson word counts of documents with mixed topics, [N, D]."""

    def draw(rng: np.random.Generator) -> np.ndarray:
        words = rng.dirichlet(np.full(num_words, 0.3), size=num_topics)
        shares = rng.dirichlet(np.full(num_topics, 0.4), size=num)
        return rng.poisson(length * shares @ words)

    return draw


def bursts(num: int, num_genes: int, *, total_count: float = 2.0) -> Draw:
    """Returns a draw of negative binomial counts of cells of four types, [N, D].

    Args:
        total_count: the overdispersion; the variance is mean + mean^2 / total_count.
    """

    def draw(rng: np.random.Generator) -> np.ndarray:
        types = rng.normal(1.0, 1.0, size=(4, num_genes))
        programs = 0.5 * rng.normal(size=(2, num_genes))
        log_means = types[rng.integers(4, size=num)] + rng.normal(size=(num, 2)) @ programs
        rates = np.exp(log_means) * rng.gamma(total_count, 1.0 / total_count, log_means.shape)
        return rng.poisson(rates)

    return draw


def strokes(num: int, side: int) -> Draw:
    """Returns a draw of pictures of a bent line of random place and slope, binary images."""

    def draw(rng: np.random.Generator) -> np.ndarray:
        down, right = np.meshgrid(*[np.linspace(-1.0, 1.0, side)] * 2, indexing="ij")
        shape = (num, 1, 1)
        slopes, bends = rng.uniform(-0.8, 0.8, shape), rng.uniform(-0.8, 0.8, shape)
        lines = rng.uniform(-0.5, 0.5, shape) + slopes * right + bends * (right**2 - 0.3)
        is_long = np.abs(right) < rng.uniform(0.5, 0.9, shape)
        return ((np.abs(down - lines) < 0.18) & is_long).astype(np.uint8)

    return draw


def visits(
    num: int, num_shops: int, *, num_habits: int = 2, absent: float = 0.0, spread: float = 0.6
) -> Draw:
    """Returns a draw of Poisson numbers of visits that depend on habits, [N, D].

    Args:
        absent: the fraction of the cells that are 0 whatever the rate.
        spread: the standard deviation of a log rate for each habit.
    """

    def draw(rng: np.random.Generator) -> np.ndarray:
        habits = rng.normal(size=(num, num_habits))
        loadings = spread * rng.normal(size=(num_habits, num_shops))
        rates = np.exp(rng.normal(1.5, 0.5, size=num_shops) + habits @ loadings)
        return rng.poisson(rates) * (rng.uniform(size=rates.shape) >= absent)

    return draw


def handwriting(num: int) -> Draw:
    """Returns a draw of `num` of scikit-learn's 1,797 digits, images [N, 8, 8] of 0 to 16."""

    def draw(rng: np.random.Generator) -> np.ndarray:
        images = load_digits(return_X_y=True)[0].reshape(-1, 8, 8).astype(np.uint8)
        return images[rng.permutation(len(images))[:num]]

    return draw


# Images in grey


def _spots(side: int, rows: np.ndarray, columns: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Returns images [N, side, side] in [0, 1] of a soft spot; its place [N] is in pixels."""
    down, right = np.arange(side)[None, :, None], np.arange(side)[None, None, :]
    y, x, radius = (np.reshape(each, (-1, 1, 1)) for each in (rows, columns, radii))
    return np.exp(-0.5 * ((down - y) ** 2 + (right - x) ** 2) / radius**2)


def spots(num: int, side: int, *, noise: float = 0.03) -> Draw:
    """Returns a draw of independent soft spots, images [N, side, side] in [0, 1]."""

    def draw(rng: np.random.Generator) -> np.ndarray:
        rows, columns = rng.uniform(0.3, 0.7, size=(2, num)) * side
        x = 0.1 + 0.7 * _spots(side, rows, columns, rng.uniform(0.1, 0.2, num) * side)
        return np.clip(x + noise * rng.normal(size=x.shape), 0.0, 1.0).astype(np.float32)

    return draw


def film(num: int, side: int, *, speed: float = 0.02) -> Draw:
    """Returns a draw of the frames of a film of a wandering spot, grey levels [N, side, side]."""

    def draw(rng: np.random.Generator) -> np.ndarray:
        steps = speed * side * rng.normal(size=(2, num))
        y, x = side * (0.5 + 0.3 * np.sin(np.cumsum(steps, axis=1) / side * 4.0))
        radii = side * (0.15 + 0.04 * np.sin(0.03 * np.arange(num)))
        frames = 30.0 + 180.0 * _spots(side, y, x, radii) + 4.0 * rng.normal(size=(num, side, side))
        return np.clip(np.round(frames), 0, 255).astype(np.uint8)

    return draw


def swing(num: int, side: int) -> Draw:
    """Returns a draw of the frames of a film of a swinging bar, grey levels [N, side, side]."""

    def draw(rng: np.random.Generator) -> np.ndarray:
        angles = np.cumsum(rng.normal(0.02, 0.02, size=num))[:, None, None]
        down, right = np.meshgrid(*[np.arange(side) - side / 2 + 0.5] * 2, indexing="ij")
        across = np.cos(angles) * right - np.sin(angles) * down
        along = np.sin(angles) * right + np.cos(angles) * down
        bar = np.exp(-0.5 * (across / 1.2) ** 2) / (1.0 + np.exp(2.0 * (np.abs(along) - side / 3)))
        frames = 40.0 + 170.0 * bar + 4.0 * rng.normal(size=bar.shape)
        return np.clip(np.round(frames), 0, 255).astype(np.uint8)

    return draw


def gratings(num: int, side: int, *, noise: float = 8.0) -> Draw:
    """Returns a draw of gratings of random angle and phase, grey levels [N, side, side].

    Args:
        noise: its standard deviation in levels.
    """

    def draw(rng: np.random.Generator) -> np.ndarray:
        angles, phases = rng.uniform(0.0, np.pi, (num, 1, 1)), rng.uniform(0.0, 6.28, (num, 1, 1))
        down, right = np.meshgrid(*[np.linspace(-1.0, 1.0, side)] * 2, indexing="ij")
        frames = 120.0 + 70.0 * np.sin(
            4.0 * (np.cos(angles) * right + np.sin(angles) * down) + phases
        )
        return np.clip(np.round(frames + noise * rng.normal(size=frames.shape)), 0, 255).astype(
            np.uint8
        )

    return draw


def orbit(num: int, side: int, *, speed: float = 0.03) -> Draw:
    """Returns a draw of a film of a spot that circles another one, grey levels [N, side, side].

    Args:
        speed: radians a frame, before a frame's random part of the same size.
    """

    def draw(rng: np.random.Generator) -> np.ndarray:
        angles = np.cumsum(speed * (1.0 + rng.normal(size=num)))
        y, x = side * (0.5 + 0.28 * np.stack([np.sin(angles), np.cos(0.7 * angles)]))
        still = _spots(side, np.full(1, side / 2), np.full(1, side / 2), np.full(1, 0.12 * side))
        frames = 35.0 + 90.0 * still + 110.0 * _spots(side, y, x, np.full(num, 0.15 * side))
        noise = 8.0 * rng.normal(size=frames.shape)
        return np.clip(np.round(frames + noise), 0, 255).astype(np.uint8)

    return draw


# Changes of data


def changed(draw: Draw, change: Callable[[np.ndarray], np.ndarray]) -> Draw:
    """Returns a draw whose result [N, ...] is given to a function."""
    return lambda rng: change(draw(rng))


def in_units(draw: Draw, scales: Sequence[float], offset: float = 0.0) -> Draw:
    """Returns a draw in other units: the columns are multiplied by `scales` in turn and shifted."""
    return changed(draw, lambda x: offset + x * np.resize(scales, x.shape[1:]))


def with_columns(draw: Draw, columns: Callable[[np.ndarray], np.ndarray]) -> Draw:
    """Returns a draw with more columns, which are a function of the table: [N, D] -> [N, D']."""
    return changed(draw, lambda x: np.concatenate([x, columns(x)], axis=1))


def with_value(draw: Draw, value: float, *, num_cells: int = 1) -> Draw:
    """Returns a draw in which random cells hold a value, such as NaN."""

    def marked(rng: np.random.Generator) -> np.ndarray:
        x = draw(rng).astype(np.float32)
        x.flat[rng.choice(x.size, num_cells, replace=False)] = value
        return x

    return marked


def with_end(draw: Draw, change: Callable[[np.ndarray], np.ndarray], *, share: float = 0.3) -> Draw:
    """Returns a draw whose last rows are changed, by default those of validation and test."""

    def ended(rng: np.random.Generator) -> np.ndarray:
        x = draw(rng)
        first = round((1.0 - share) * len(x))
        return np.concatenate([x[:first], change(x[first:])]).astype(x.dtype)

    return ended


def resampled(draw: Draw, num: int) -> Draw:
    """Returns a draw of `num` rows of another, with replacement: rows are repeated."""

    def repeated(rng: np.random.Generator) -> np.ndarray:
        x = draw(rng)
        return x[rng.integers(len(x), size=num)]

    return repeated


def twice(draw: Draw) -> Draw:
    """Returns a draw in which all rows follow once more."""
    return changed(draw, lambda x: np.concatenate([x, x]))
