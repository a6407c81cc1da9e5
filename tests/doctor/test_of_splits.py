"""The checks of training against validation data."""

import numpy as np
import pytest
from scipy.spatial import distance
from small_data import grey_digits, normals, of_array, of_splits

from aevb import data
from aevb.data import Dataset, Labels, Options
from aevb.doctor import of_splits as module
from aevb.doctor.hints import Hint
from aevb.doctor.of_splits import hints_of_splits
from aevb.doctor.sample import draw


def hints_for(dataset: Dataset) -> list[Hint]:
    return hints_of_splits(dataset, draw(dataset, 5000))


def causes(dataset: Dataset) -> list[str]:
    return [hint.cause for hint in hints_for(dataset)]


# Copies


def test_repeated_training_datapoints_are_counted():
    x = normals(500, 4)
    x[400:430] = x[:30]
    [hint] = hints_for(of_splits(x[:450], x[450:]))
    assert hint.cause == "repeated_datapoints"
    assert hint.evidence.startswith("6.7% of 450 ")
    assert causes(of_splits(x[:410], x[450:])) == []  # 10 of 410


def test_validation_datapoints_that_are_trained_on_are_counted():
    x = normals(500, 4)
    x[480:483] = x[:3]
    [hint] = hints_for(of_splits(x[:450], x[450:]))
    assert hint.cause == "leaked_datapoints"
    assert hint.evidence.startswith("6.0% of 50 ")


def test_validation_datapoints_that_are_equal_to_one_another_are_not_leaked():
    x = normals(500, 4)
    x[475:] = x[450:475]
    assert causes(of_splits(x[:450], x[450:])) == []


def test_zeros_of_either_sign_are_equal():
    x = normals(400, 2)
    x[:, 1] = 0.0
    assert causes(of_splits(x[:300], -np.abs(x[:100]) * [-1, 1])) == []
    x[:, 0] = np.abs(x[:, 0])
    assert causes(of_splits(x[:300], (x[:100] * [1, -1]).astype(np.float32))) == [
        "leaked_datapoints"
    ]


def test_short_sparse_and_rounded_data_may_be_equal_by_chance():
    sparse = (np.random.default_rng(0).random((3000, 200)) < 0.02).astype(np.uint8)
    assert causes(of_splits(sparse[:2400], sparse[2400:], "binary")) == []
    rounded = np.round(normals(1000, 2), 1)
    assert causes(of_splits(rounded[:800], rounded[800:])) == []
    bits = (normals(500, 120) > 0).astype(np.uint8)
    bits[450:] = bits[:50]
    assert causes(of_splits(bits[:450], bits[450:], "binary")) == ["leaked_datapoints"]
    assert causes(of_splits(bits[:450, :8], bits[450:, :8], "binary")) == []


def test_small_drawings_that_are_often_equal_are_no_copies():
    """Half of the datapoints are one of 200 drawings, and the others are seen once."""
    rng = np.random.default_rng(0)
    drawings = (rng.normal(size=(200, 60)) > 0).astype(np.uint8)
    rare = (rng.normal(size=(3000, 60)) > 0).astype(np.uint8)
    is_common = rng.uniform(size=(3000, 1)) < 0.5
    x = np.where(is_common, drawings[rng.integers(200, size=3000)], rare)
    assert causes(of_splits(x[:2400], x[2400:], "binary")) == []
    twice = np.concatenate([rare[:1500], rare[:1500]])
    assert causes(of_splits(twice[:2400], twice[2400:], "binary")) != []


def test_the_fraction_that_isequal_by_chance_is_that_of_independent_columns():
    random = np.random.default_rng(0)
    x = random.choice(4, (2000, 6), p=[0.4, 0.3, 0.2, 0.1])
    found = module.equal_by_chance(x)
    assert found == pytest.approx(min(1.0, 2000 * 0.3**6), rel=0.1)
    assert module.equal_by_chance(x[:, :1]) == 1.0
    assert module.equal_by_chance(normals(100, 3)) == 0.0


def test_large_data_are_compared_in_evenly_spaced_datapoints(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MOST_VALUES", 400)
    x = normals(200, 4)
    x[100:] = x[:100]
    [hint] = hints_for(of_splits(x))
    assert hint.evidence.startswith("50.0% of 100 ")


@pytest.mark.parametrize("grey_scale", [255.0, 256.0])
def test_near_copies_are_found_in_the_random_split_of_a_film_and_not_in_blocks(grey_scale: float):
    options = Options(grey_scale=grey_scale)
    [hint] = hints_for(data.load("frey_faces", options._replace(split="random")))
    assert hint.cause == "near_duplicates"
    assert "data.split=blocked" in hint.remedy
    assert causes(data.load("frey_faces", options)) == []


def test_the_evidence_of_near_copies_is_that_of_all_pairs():
    dataset = data.load("frey_faces", Options(split="random"))
    train, valid = (np.asarray(x) / 256.0 for x in (dataset.train, dataset.valid))
    chosen = np.arange(200) * len(train) // 200
    inner = distance.cdist(train[chosen], train)
    inner[np.arange(200), chosen] = np.inf
    in_order = np.mean(np.abs(inner.argmin(axis=1) - chosen) <= 5)
    ratio = np.median(distance.cdist(valid, train).min(axis=1)) / np.median(inner.min(axis=1))
    [hint] = hints_for(dataset)
    assert hint.evidence.startswith(f"{in_order:.0%} of the training datapoints")
    assert f"is {ratio:.2f} of that" in hint.evidence


def test_a_random_walk_is_a_film_and_its_permutation_is_not():
    walk = np.cumsum(normals(2000, 6), axis=0)
    assert causes(of_array(walk, split="random")) == ["near_duplicates"]
    assert "near_duplicates" not in causes(of_array(walk))
    shuffled = np.random.default_rng(0).permutation(walk)
    assert causes(of_array(shuffled, split="random")) == []


def test_augmented_copies_in_both_splits_are_found():
    x = normals(600, 20)
    copies = x + 0.01 * normals(600, 20, seed=1)
    both = np.random.default_rng(2).permutation(np.concatenate([x, copies]))
    [hint] = hints_for(of_array(both, split="random"))
    assert hint.cause == "near_duplicates"
    assert "augment" in hint.remedy
    apart = of_splits(np.concatenate([x[:500], copies[:500]]), x[500:])
    assert causes(apart) == []


@pytest.mark.parametrize("num_dims", [1, 2, 3])
def test_data_of_few_dimensions_have_near_neighbors_without_being_copies(num_dims: int):
    for seed in range(5):
        assert causes(of_array(normals(1500, num_dims, seed=seed))) == []


# Distribution


def test_a_column_that_numbers_the_datapoints_is_found():
    x = normals(1000, 3)
    x[:, 2] = np.arange(1000)
    [hint] = hints_for(of_array(x))
    assert hint.cause == "shifted_columns"
    assert "in column 2 (from 0)" in hint.evidence
    assert causes(of_array(np.random.default_rng(0).permutation(x))) == []


def test_the_shift_is_in_standard_deviations_of_the_training_data():
    train, valid = normals(1000, 2), normals(400, 2, seed=1)
    assert causes(of_splits(10 * train, 10 * valid + [0.0, 13.0])) == []
    [hint] = hints_for(of_splits(10 * train, 10 * valid + [0.0, 18.0]))
    expected = np.mean(valid[:, 1] + 1.8) - np.mean(train[:, 1])
    assert f"{expected / np.std(train[:, 1]):.3g} standard deviations" in hint.evidence


def test_images_of_another_scale_are_found():
    train = grey_digits().reshape(-1, 256) / np.float32(255)
    options = {"image_shape": (16, 16), "kind": "unit"}
    assert causes(of_splits(train[:1500], train[1500:], **options)) == []
    darker = of_splits(1.0 - train[:1500], train[1500:], **options)
    assert causes(darker) == ["shifted_columns"]


def test_the_means_of_few_validation_datapoints_may_differ_by_their_error():
    for seed in range(1, 6):
        assert causes(of_splits(normals(200, 100), normals(2, 100, seed=seed))) == []


def labelled(train: list[int], valid: list[int] | None) -> Dataset:
    x = normals(300, 3)
    classes = np.array(train)
    held_out = None if valid is None else np.array(valid)
    labels = Labels(("ape", "bee", "cow"), classes, classes[:0], held_out)
    own = x[200 : 200 + len(valid or [])]
    return of_splits(x[: len(train)], None if valid is None else own, labels=labels)


def test_a_class_that_is_not_trained_on_is_named():
    [hint] = hints_for(labelled([0, 1] * 60, [0, 1, 2, 2] * 10))
    assert hint.cause == "missing_classes"
    assert hint.evidence.startswith("1 of 3 classes, with 50% of the validation data, such as cow")
    assert causes(labelled([0, 1, 2] * 40, [0, 1] * 10)) == []
    assert causes(labelled([0, 1] * 60, None)) == []


def test_labels_of_one_class_are_found():
    assert causes(labelled([1] * 120, [1] * 20)) == ["one_class"]
    assert causes(labelled([1] * 119 + [0], [1] * 20)) == []
