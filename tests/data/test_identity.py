"""The identity of data: equal for the same data, and in words where data differ."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aevb import data
from aevb.data import Dataset, Options, on_disk
from aevb.data.identity import description_of, difference, identity
from aevb.data.preprocessing import scaled, unchanged


def pixels(**changes: Any) -> Dataset:
    x = np.random.default_rng(0).integers(0, 256, (50, 6)).astype(np.uint8)
    dataset = Dataset(
        name="pixels",
        train=x[:30],
        valid=x[30:40],
        test=x[40:],
        kind="grey",
        preprocess=unchanged,
        image_shape=(2, 3),
        levels=256.0,
    )
    return dataset._replace(**changes)


def with_one_changed(x: np.ndarray) -> np.ndarray:
    changed = x.copy()
    changed[-1, -1] ^= 1
    return changed


P = pixels()
CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "kind": ({"kind": "real"}, "grey data then, real data now"),
    "columns": (
        {name: getattr(P, name)[:, :4] for name in ("train", "valid", "test")},
        "6 columns then, 4 columns now",
    ),
    "shape": ({"image_shape": (3, 2)}, "images of shape [2, 3] then, images of shape [3, 2] now"),
    "no shape": ({"image_shape": None}, "[2, 3] then, images of shape None now"),
    "levels": ({"levels": 255.0}, "grey levels k / 256.0 then, grey levels k / 255.0 now"),
    "noise": ({"is_dequantized": True}, "data.dequantize=False then, data.dequantize=True now"),
    "fewer": ({"train": P.train[:-1]}, "30 training datapoints then, 29 now"),
    "no validation": ({"valid": None}, "10 validation datapoints then, 0 now"),
    "one level": ({"test": with_one_changed(P.test)}, "test datapoints of the same shape, but"),
    "order": ({"train": P.train[::-1]}, "training datapoints of the same shape, but other values"),
    "preprocessing": ({"preprocess": scaled(255.0)}, "the preprocessing {'name': 'unchanged'"),
    "type": ({"train": P.train.astype(np.float32)}, "training datapoints of the same shape, but"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_difference_is_named(name: str):
    changes, words = CHANGES[name]
    assert words in difference(identity(P), identity(pixels(**changes)))


def test_the_same_data_are_the_same_under_another_name_and_on_disk(tmp_path: Any):
    same = pixels(name="others", train=np.asfortranarray(P.train))
    assert difference(identity(P), identity(same)) == ""
    assert identity(on_disk(P, Options(dir=str(tmp_path)))) == identity(P)


def test_the_digest_does_not_depend_on_the_blocks_in_which_data_are_read(
    monkeypatch: pytest.MonkeyPatch,
):
    whole = identity(P)
    monkeypatch.setattr("aevb.data.io.sources.BLOCK", 7)
    assert identity(P) == whole


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("frey_faces", Options()),
        ("frey_faces", Options(grey_scale=255.0)),
        ("frey_faces", Options(dequantize=True)),
        ("synthetic", Options()),
    ],
)
def test_the_description_of_data_is_read_back_from_their_identity(name: str, options: Options):
    dataset = data.load(name, options)
    found = description_of(json.loads(json.dumps(identity(dataset))))
    assert found is not None
    assert found == dataset.description
    key, x = jax.random.key(3), jnp.asarray(dataset.test[0])
    np.testing.assert_array_equal(found.preprocess(key, x), dataset.preprocess(key, x))


def test_a_preprocessing_of_the_users_own_is_not_stored():
    stored = identity(pixels(preprocess=lambda key, x: x / 7))
    assert stored["preprocess"] is None
    assert description_of(stored) is None
