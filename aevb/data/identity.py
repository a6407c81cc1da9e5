"""The identity of a dataset: what a run stores of its data, and how other data differ from them."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from aevb.data import Dataset, Description
from aevb.data.io import sources
from aevb.data.preprocessing import Preprocessing
from aevb.data.standardization import Standardization
from aevb.runtime.checksums import as_read_back

SPLITS = {"train": "training", "valid": "validation", "test": "test"}


def identity(dataset: Dataset) -> dict[str, Any]:
    """Returns the description of a dataset, the number and digest of each split, and of labels.

    It is JSON content. A preprocessing that is not of this package is None. The digests depend
    neither on the data's name nor on whether they are in memory.
    """
    content = {
        **content_of(dataset.description),
        "splits": {
            split: {"number": len(data), "dtype": str(data.dtype), "sha256": sources.digest(data)}
            for split, data in dataset.splits.items()
        },
    }
    labels = dataset.labels
    if labels is not None and labels.is_shown is not None:
        content["labels"] = sources.digest(labels.shown)
    return as_read_back(content)


def content_of(description: Description) -> dict[str, Any]:
    """Returns a description as JSON content. A preprocessing not of this package is None."""
    preprocess, by = description.preprocess, description.standardization
    return {
        **description._asdict(),
        "preprocess": asdict(preprocess) if isinstance(preprocess, Preprocessing) else None,
        "standardization": None if by is None else asdict(by),
    }


def description_of(stored: Mapping[str, Any]) -> Description | None:
    """Returns the description in a dataset's identity, or None if its preprocessing is unknown."""
    if stored["preprocess"] is None:
        return None
    image_shape, by = stored["image_shape"], stored["standardization"]
    fields = {name: stored[name] for name in Description._fields}
    return Description(**fields)._replace(
        image_shape=None if image_shape is None else tuple(image_shape),
        preprocess=Preprocessing(**stored["preprocess"]),
        shape=tuple(stored["shape"]),
        range=tuple(stored["range"]),
        standardization=by and Standardization(tuple(by["mean"]), tuple(by["scale"])),
    )


def difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Returns the first difference between two identities in words, or "" if they are equal."""
    for name, unit in (
        ("kind", "{} data"),
        ("num_dims", "{} columns"),
        ("image_shape", "images of shape {}"),
        ("levels", "grey levels k / {}"),
        ("is_dequantized", "data.dequantize={}"),
        ("preprocess", "the preprocessing {}"),
        ("has_missing", "data.missing={}"),
    ):
        if then[name] != now[name]:
            return f"{unit.format(then[name])} then, {unit.format(now[name])} now"
    for split, word in SPLITS.items():
        first, second = (found["splits"].get(split, {"number": 0}) for found in (then, now))
        if first["number"] != second["number"]:
            return f"{first['number']:,} {word} datapoints then, {second['number']:,} now"
        if first != second:
            return f"as many {word} datapoints of the same shape, but other values"
    if then["standardization"] != now["standardization"]:
        return "the same values up to the scale or the mean of a column"
    if then.get("labels") != now.get("labels"):
        return "the same values, but other labels"
    return ""
