"""The experiment with few labels: its draws, its choice of settings, and its results file."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

from aevb.data import Dataset, Labels, preprocessing
from experiments.paper import few_labels


def images() -> Dataset:
    """Returns digits 0, 1 and 2 of 8 x 8 grey levels, as MNIST's are stored."""
    x, y = load_digits(n_class=3, return_X_y=True)
    parts = np.split(np.arange(len(y)), [300, 400])
    train, valid, test = ((15 * x[part]).astype(np.uint8) for part in parts)
    labels = Labels(("0", "1", "2"), y[parts[0]], y[parts[2]], y[parts[1]])
    return Dataset(
        "mnist", train, test, "binary", preprocessing.drawn, (8, 8), None, valid, labels=labels
    )


def given(tmp_path: Path, *arguments: str) -> Any:
    return few_labels.parse([*arguments, f"--output={tmp_path / 'results.json'}"])


def test_what_is_in_the_results_file_is_not_computed_again(tmp_path: Path):
    calls = []

    def compute(**one: Any) -> dict[str, Any]:
        calls.append(one)
        weight = one["changes"].get("algorithm.label_weight", one["changes"].get("C"))
        return {"valid": abs(weight - 1.0), "test": 0.5, "seconds": 1.0}

    few = given(tmp_path, "--counts=30,60", "--draws=2,1")
    few_labels.report(few, compute)
    searched = sum(map(len, few_labels.SEARCHED.values()))
    choices = len(few_labels.CHOICES)
    assert len(calls) == searched + 3 * (2 + 1) + choices
    assert calls[-1]["changes"] == {"algorithm.label_weight": 1.0, **few_labels.CHOICES["long"]}
    found = json.loads((tmp_path / "results.json").read_text())
    assert {one["seed"] for one in found["searched"]} == {few_labels.SEARCH_SEED}
    weights = [one["changes"] for one in found["results"] if one["method"] == "m2"]
    assert weights == 3 * [{"algorithm.label_weight": 1.0}]  # the least validation error
    few_labels.report(few, compute)
    assert len(calls) == searched + 9 + choices
    few_labels.report(given(tmp_path, "--counts=30,60", "--draws=2,2"), compute)
    assert len(calls) == searched + 12 + choices


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")  # optax's Adam promotes
def test_every_method_classifies_better_than_chance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    short = {"train.num_examples": 20_000, "train.batch_size": 50}
    monkeypatch.setattr(few_labels, "M1", {**few_labels.M1, **short})
    settings = {name: {**own, **short} for name, own in few_labels.SETTINGS.items()}
    monkeypatch.setattr(few_labels, "SETTINGS", settings)
    file = tmp_path / "features.npz"
    features = few_labels.features_of(file, images(), None)
    again = few_labels.features_of(file, images(), None)
    np.testing.assert_array_equal(features.train, again.train)
    standardized = few_labels.with_features(features, "standardized").train
    np.testing.assert_allclose(np.mean(standardized, axis=0), 0.0, atol=1e-4)
    drawn = features.preprocess(jax.random.key(0), features.train[0])
    assert 0.0 < np.std(drawn - features.train[0]) < 1.0
    means = few_labels.with_features(features, "means")
    np.testing.assert_array_equal(
        means.preprocess(jax.random.key(0), features.train[0]), features.train[0]
    )
    for method in few_labels.METHODS:
        found = few_labels.result_of(method, images(), features, 30, 0, None, {})
        assert found["valid"] < 0.4, method
        assert found["test"] < 0.4, method
