"""Missing values, which are NaN: those of the user's own data, and those hidden for a study."""

import numpy as np

WAYS = ("entries", "blocks")
HIDING_SEED = 20131220


def put_back(filled: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Returns values [N, D] as floating point with NaN where x has it; unchanged if it has none.

    Args:
        filled: [N, D], made from x, with any number where x is NaN.
    """
    if x.dtype.kind != "f" or not (is_missing := np.isnan(x)).any():
        return filled
    kept = filled if filled.dtype.kind == "f" else filled.astype(np.float32)
    return np.where(is_missing, kept.dtype.type(np.nan), kept)


def hide(
    x: np.ndarray, how: str, share: float, image_shape: tuple[int, ...] | None, stream: int
) -> np.ndarray:
    """Returns x [N, D] as float32 with NaN for a part of the values, the same in every call.

    Args:
        how: "entries" hides each pixel of an image, or value of other data, independently of the
            others; "blocks" hides a rectangle of each image, with the image's proportions.
        share: the probability of an entry, or the area of a block in that of the image.
        image_shape: (height, width) or (height, width, channels), whose product is D; None for
            data other than images.
        stream: the number of a random stream, another one for each split.

    Raises:
        ValueError: blocks are to be hidden in data other than images, or the share is not between 0
            and 1.
    """
    if not 0.0 < share < 1.0:
        raise ValueError(f"data.hide_share is {share}; it must be above 0 and below 1")
    if how == "blocks" and image_shape is None:
        raise ValueError(
            "data.hide is 'blocks', which is for images, and these data are none; set "
            "data.hide=entries"
        )
    height, width, *channels = image_shape or (1, x.shape[1])
    random = np.random.RandomState([HIDING_SEED, stream])
    of_way = _entries if how == "entries" else _blocks
    masks = of_way(random, (len(x), height, width), share)
    of_values = np.broadcast_to(masks[..., None], (*masks.shape, *(channels or (1,))))
    return np.where(of_values.reshape(x.shape), np.float32(np.nan), x.astype(np.float32))


def _entries(
    random: np.random.RandomState, shape: tuple[int, int, int], share: float
) -> np.ndarray:
    return random.random_sample(shape) < share


def _blocks(random: np.random.RandomState, shape: tuple[int, int, int], share: float) -> np.ndarray:
    def along(size: int) -> np.ndarray:
        """Returns the rows, or columns, of the block in each image, [N, size]."""
        length = max(1, round(size * share**0.5))
        first = random.randint(0, size - length + 1, (shape[0], 1))
        return (np.arange(size) >= first) & (np.arange(size) < first + length)

    rows, columns = along(shape[1]), along(shape[2])
    return rows[:, :, None] & columns[:, None, :]
