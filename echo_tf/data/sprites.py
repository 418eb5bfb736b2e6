"""Images of five known factors: `sprites`, rendered here, and which combinations a set with dependent factors keeps.

A combination of the factors is a number, that of the values in row-major order (`factors_of`); it is the label of an image.
"""

import itertools

import numpy as np

from echo_tf.data.dataset import Dataset

FACTORS = ("shape", "scale", "orientation", "x", "y")
SIZE = 64  # pixels of a side

# Values by factor. sprites: few enough that a model sees each image several times in a minute on one core.
SIZES = {"sprites": (3, 4, 8, 9, 9), "dsprites": (3, 6, 40, 32, 32)}
DEPENDENT = "_dependent"  # ends the name of a set that lacks blocks of combinations
BLOCKS, REMOVED, DEPENDENT_SEED = 4, 0.15, 42  # the released code's

TEST_SHARE, SPLIT_SEED = 0.1, 0


def factor_sizes(name: str) -> tuple[int, ...]:
    """Number of values of every factor of `sprites` or `dsprites`, whether independent or not."""
    return SIZES[name.removesuffix(DEPENDENT)]


def factors_of(combinations: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """Values of the factors, integers from 0, shape `(n, factors)`, of numbers of combinations, shape `(n,)`."""
    return np.stack(np.unravel_index(combinations, sizes), axis=1)


def render(factors: np.ndarray, sizes: tuple[int, ...] = SIZES["sprites"]) -> np.ndarray:
    """Draw sprites: a rectangle, an ellipse or a heart, with any number of scales, orientations and places.

    Args:
        factors: Integers, shape `(n, 5)`: shape (0 to 2), scale, orientation, x, y, each below its size.
        sizes: Number of values by factor. Scales are evenly spaced from 0.5 to 1, orientations over a full turn without its
            end, places over the middle half of the image.

    Returns:
        uint8 of 0 and 1, shape `(n, 64, 64, 1)`. A pixel is 1 if its centre is inside of the sprite.

    Raises:
        ValueError: sizes or factors that do not fit.

    Example:
        >>> render(np.array([[0, 3, 0, 4, 4]])).shape
        (1, 64, 64, 1)
    """
    factors = np.asarray(factors)
    if len(sizes) != len(FACTORS) or min(sizes) < 1 or sizes[0] > 3:
        raise ValueError(f"Invalid value received for argument `sizes`. Expected 5 counts, at most 3 shapes. Received: {sizes}")
    if factors.ndim != 2 or factors.shape[1] != len(FACTORS) or np.any(factors < 0) or np.any(factors >= sizes):
        raise ValueError(
            f"Invalid value received for argument `factors`. Expected shape (n, 5), each below {sizes}. "
            f"Received: shape {factors.shape}"
        )

    def spaced(column: int, low: float, high: float, endpoint: bool = True) -> np.ndarray:
        values = np.linspace(low, high, sizes[column], endpoint=endpoint) if sizes[column] > 1 else np.array([(low + high) / 2])
        return values[factors[:, column], None, None]

    scale, angle = spaced(1, 0.5, 1.0), spaced(2, 0.0, 2 * np.pi, endpoint=False)
    centre_x, centre_y = spaced(3, -0.5, 0.5), spaced(4, -0.5, 0.5)
    pixels = (np.arange(SIZE) + 0.5) / SIZE * 2.0 - 1.0
    x, y = pixels[None, None, :] - centre_x, pixels[None, :, None] - centre_y
    u = (np.cos(angle) * x + np.sin(angle) * y) / (0.45 * scale)
    v = (np.cos(angle) * y - np.sin(angle) * x) / (0.45 * scale)
    rectangle = np.maximum(np.abs(u), np.abs(v) / 0.6) <= 0.8
    ellipse = u**2 + (v / 0.5) ** 2 <= 1.0
    a, b = 1.25 * u, -1.25 * v  # the sextic curve (a^2 + b^2 - 1)^3 = a^2 b^3, upright
    heart = (a**2 + b**2 - 1.0) ** 3 <= a**2 * b**3
    inside = np.choose(factors[:, 0, None, None], (rectangle, ellipse, heart))
    return inside.astype(np.uint8)[..., None]


def kept_when_dependent(
    sizes: tuple[int, ...], blocks: int = BLOCKS, removed: float = REMOVED, seed: int = DEPENDENT_SEED
) -> np.ndarray:
    """Which combinations are left when factors shall depend on each other.

    Each factor is cut into at most `blocks` near-equal runs of values. For each pair of factors, each pair of their runs is
    removed with probability `removed`: all combinations that are in both.

    Args:
        sizes: Number of values by factor.
        blocks: Integer >= 1.
        removed: Probability.
        seed: Of NumPy's `RandomState`, whose draws never change.

    Returns:
        Boolean, shape `(product of sizes,)`.

    Source: the released code of Brekelmans et al. 2019, which keeps 124,800 of the 737,280 images of dSprites.
    """
    rng, kept = np.random.RandomState(seed), np.ones(sizes, bool)
    runs = [np.array_split(np.arange(size), min(blocks, size)) for size in sizes]
    for i, j in itertools.combinations(range(len(sizes)), 2):
        for first, second in itertools.product(runs[i], runs[j]):
            if rng.random_sample() < removed:
                where: list = [slice(None)] * len(sizes)
                where[i], where[j] = slice(first[0], first[-1] + 1), slice(second[0], second[-1] + 1)
                kept[tuple(where)] = False
    return kept.ravel()


def factor_dataset(name: str, images: np.ndarray) -> Dataset:
    """A `Dataset` of the images of all combinations: a tenth for testing, of a dependent set a tenth of what it keeps.

    Args:
        name: `"sprites"`, `"dsprites"`, or one of them with `_dependent` behind it.
        images: uint8 of 0 and 1, in the order of the combinations, shape `(n, 64, 64, 1)`.

    Returns:
        The `Dataset`, whose labels are numbers of combinations.
    """
    kept = _kept(name)
    if len(kept) != len(images):
        raise ValueError(f"Expected images of all {len(kept)} combinations of {name}. Received: {len(images)}")
    order = np.random.RandomState(SPLIT_SEED).permutation(np.flatnonzero(kept))
    cut = images_of_split(name)["train"]
    labels = {"train": order[:cut], "test": order[cut:]}
    return Dataset(name, {split: images[numbers] for split, numbers in labels.items()}, 1, labels)


def _kept(name: str) -> np.ndarray:
    sizes = factor_sizes(name)
    return kept_when_dependent(sizes) if name.endswith(DEPENDENT) else np.ones(int(np.prod(sizes)), bool)


def images_of_split(name: str) -> dict[str, int]:
    """Number of images by split, without the images."""
    kept = int(_kept(name).sum())
    return {"train": kept - round(TEST_SHARE * kept), "test": round(TEST_SHARE * kept)}


def all_sprites() -> np.ndarray:
    """Images of all combinations of `sprites`, uint8 of shape `(n, 64, 64, 1)`."""
    sizes = SIZES["sprites"]
    factors = factors_of(np.arange(np.prod(sizes)), sizes)
    return np.concatenate([render(part, sizes) for part in np.array_split(factors, 16)])  # else the coordinates take gigabytes
