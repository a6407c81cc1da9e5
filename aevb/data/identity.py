"""The identity of a dataset: what a run stores of its data, and how other data differ from them."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from aevb.data import Dataset

BLOCK = 2**24  # bytes that are read at a time
SPLITS = {"train": "training", "valid": "validation", "test": "test"}


def identity(dataset: Dataset) -> dict[str, Any]:
    """Returns the kind and the shape of a dataset, and the number and digest of each split.

    It is JSON content. It depends neither on the data's name nor on whether they are in memory.
    """
    shape = dataset.image_shape
    return {
        "kind": dataset.kind,
        "num_dims": dataset.train.shape[1],
        "image_shape": None if shape is None else list(shape),
        "levels": dataset.levels,
        "is_dequantized": dataset.is_dequantized,
        "splits": {
            split: {"number": len(data), "dtype": str(data.dtype), "sha256": _digest(data)}
            for split, data in dataset.splits.items()
        },
    }


def difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Returns the first difference between two identities in words, or "" if they are equal."""
    for name, unit in (
        ("kind", "{} data"),
        ("num_dims", "{} columns"),
        ("image_shape", "images of shape {}"),
        ("levels", "grey levels k / {}"),
        ("is_dequantized", "data.dequantize={}"),
    ):
        if then[name] != now[name]:
            return f"{unit.format(then[name])} then, {unit.format(now[name])} now"
    for split, word in SPLITS.items():
        first, second = (found["splits"].get(split, {"number": 0}) for found in (then, now))
        if first["number"] != second["number"]:
            return f"{first['number']:,} {word} datapoints then, {second['number']:,} now"
        if first != second:
            return f"as many {word} datapoints of the same shape, but other values"
    return ""


def _digest(data: Any) -> str:
    """Returns the SHA-256 of the bytes of datapoints [N, D], in memory or on disk, row-major."""
    total, rows = hashlib.sha256(), max(1, BLOCK // max(1, data.shape[1] * data.dtype.itemsize))
    for start in range(0, len(data), rows):
        total.update(np.ascontiguousarray(data[start : start + rows]).data)
    return total.hexdigest()
