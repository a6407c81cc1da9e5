"""The checks of data before training: each finds its fault, and none finds one in sound data."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import small_data
from small_data import digits, grey_digits, normals, of_array, of_splits

from aevb import data
from aevb.config import DEFAULTS, OPTIONS
from aevb.data import Dataset, Options, preprocessing
from aevb.doctor.hints import CAUSES, Hint
from aevb.doctor.of_data import hints_of_data
from aevb.likelihoods import LIKELIHOODS


def hints_for(
    dataset: Dataset, name: str, *, num_latents: int = 2, batch_size: int = 50, **options: Any
) -> list[Hint]:
    likelihood = LIKELIHOODS[name](dataset.train.shape[1], **options)
    return hints_of_data(dataset, likelihood, num_latents=num_latents, batch_size=batch_size)


def causes(*arguments: Any, **options: Any) -> list[str]:
    return [hint.cause for hint in hints_for(*arguments, **options)]


def negative_binomials() -> np.ndarray:
    return np.random.default_rng(0).negative_binomial(1, 0.3, (1500, 20))


def dequantized_digits() -> Dataset:
    dataset = of_array(grey_digits())
    preprocess = preprocessing.dequantized(dataset.preprocess)
    return dataset._replace(preprocess=preprocess, is_dequantized=True)


# Sound data

SOUND: dict[str, tuple[Callable[[], Dataset], tuple[str, ...]]] = {
    "Frey faces in blocks": (
        lambda: data.load("frey_faces"),
        ("gaussian_unit_mean", "gaussian", "gaussian_shared", "continuous_bernoulli",
         "discretized_logistic", "discretized_gaussian", "categorical"),
    ),
    "synthetic": (lambda: data.load("synthetic"), ("gaussian", "gaussian_shared")),
    "binarized anew": (lambda: of_array(grey_digits(), binarization="dynamic"), ("bernoulli",)),
    "binarized once": (lambda: of_array(grey_digits(), binarization="fixed"), ("bernoulli",)),
    "grey": (
        lambda: of_array(grey_digits()),
        ("continuous_bernoulli", "gaussian_shared", "discretized_logistic"),
    ),
    "grey, dequantized": (dequantized_digits, ("gaussian",)),
    "digits as counts": (
        lambda: of_array(digits(), kind="counts"),
        ("poisson", "negative_binomial", "zero_inflated_poisson"),
    ),
    "counts": (lambda: of_array(negative_binomials(), kind="counts"), ("negative_binomial",)),
    "table": (
        lambda: of_array(normals(2000, 4) * [1e-3, 1.0, 50.0, 1e6] + [0.0, 7.0, 1e3, 0.0]),
        ("gaussian", "gaussian_shared"),
    ),
    "raw table": (lambda: of_array(normals(2000, 4), standardize=False), ("gaussian",)),
    "short binary vectors": (
        lambda: of_array((normals(1000, 5) > 0).astype(np.uint8)), ("bernoulli",)
    ),
    "clusters in order": (
        lambda: of_array(
            normals(2000, 5) + 20 * np.repeat(normals(10, 5, seed=1), 200, axis=0), split="random"
        ),
        ("gaussian",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SOUND)
def test_sound_data_have_no_hints(name: str):
    make, likelihoods = SOUND[name]
    dataset = make()
    for likelihood in likelihoods:
        assert hints_for(dataset, likelihood) == []


# Faults


def with_nan() -> Dataset:
    x = normals(900, 4)
    x[7, 2] = np.nan
    return of_splits(x[:800], x[800:])


def binary_digits() -> np.ndarray:
    return preprocessing.binarized_once(grey_digits())[0]


def mostly_zero() -> np.ndarray:
    x = normals(1000, 4)
    x[: 1000 * 4 // 5, 1] = 0.0
    return np.random.default_rng(1).permutation(x)


FAULTS: list[tuple[str, Callable[[], Dataset], str, dict[str, Any]]] = [
    ("nonfinite_data", with_nan, "gaussian", {}),
    ("other_kind", lambda: of_array(digits(), kind="counts"), "bernoulli", {}),
    ("other_kind", lambda: of_array(normals(800, 3)), "continuous_bernoulli", {}),
    (
        "wrong_range",
        lambda: of_array(grey_digits())._replace(preprocess=preprocessing.unchanged),
        "continuous_bernoulli",
        {},
    ),
    ("wrong_range", lambda: of_splits(normals(800, 3), kind="binary"), "bernoulli", {}),
    ("wrong_range", lambda: of_splits(normals(800, 3) ** 2, kind="counts"), "poisson", {}),
    ("levels_as_real", lambda: of_array(grey_digits().astype(float)), "gaussian_shared", {}),
    ("counts_as_real", lambda: of_array(negative_binomials(), kind="real"), "gaussian", {}),
    ("binary_as_density", lambda: of_array(255 * binary_digits()), "gaussian_shared", {}),
    ("binary_as_density", lambda: of_array(255 * binary_digits()), "discretized_logistic", {}),
    ("binary_as_density", lambda: of_array(binary_digits() / 1.0, kind="real"), "gaussian", {}),
    ("unscaled_data", lambda: of_array(300 * normals(800, 4), standardize=False), "gaussian", {}),
    ("unscaled_data", lambda: of_array(0.01 * normals(800, 4), standardize=False), "gaussian", {}),
    (
        "unscaled_data",
        lambda: of_array(normals(800, 2) * [1.0, 1e-3], standardize=False),
        "gaussian",
        {},
    ),
    ("unbounded_density", lambda: of_array(grey_digits()), "gaussian", {}),
    ("unbounded_density", lambda: of_array(grey_digits()), "gaussian_unit_mean", {}),
    ("unbounded_density", lambda: of_array(grey_digits()), "gaussian_shared", {"per_dim": True}),
    ("unbounded_density", lambda: of_array(mostly_zero()), "gaussian", {}),
    ("point_mass", lambda: of_array(mostly_zero()), "gaussian_shared", {}),
    (
        "constant_columns",
        lambda: of_array(normals(800, 3) * [1.0, 0.0, 1.0] + 2.5),
        "gaussian_shared",
        {},
    ),
    ("few_datapoints", lambda: of_array(normals(800, 30)), "gaussian", {"num_latents": 60}),
    ("few_datapoints", lambda: of_array(normals(700, 500)), "gaussian", {"batch_size": 40}),
    ("few_per_statistic", lambda: of_array(grey_digits()[:900]), "categorical", {}),
    ("large_minibatch", lambda: of_array(normals(800, 4)), "gaussian", {"batch_size": 150}),
]


@pytest.mark.parametrize(
    ("cause", "make", "likelihood", "options"),
    FAULTS,
    ids=[f"{cause}-{number}" for number, (cause, *_) in enumerate(FAULTS)],
)
def test_a_fault_is_found_and_no_other(
    cause: str, make: Callable[[], Dataset], likelihood: str, options: dict[str, Any]
):
    [hint] = hints_for(make(), likelihood, **options)
    assert hint.cause == cause
    require_sound(hint)


def require_sound(hint: Hint) -> None:
    """Checks that a hint is of a known cause, has figures, and names existing settings."""
    assert hint.cause in CAUSES
    assert re.search(r"\d|scores", hint.evidence)
    named = re.findall(r"\b(?:data|model|train|optimizer|algorithm)\.\w+", hint.remedy)
    assert set(named) <= DEFAULTS.keys() | OPTIONS.keys()
    assert all("\n" not in words for words in hint)


def test_the_evidence_has_the_figures_of_the_data():
    [hint] = hints_for(of_array(mostly_zero()), "gaussian")
    assert "1 of 4 columns, of which 0 are constant" in hint.evidence
    share = re.search(r"column 1 \(from 0\), where (\d+\.\d)%", hint.evidence)
    assert share
    assert abs(float(share[1]) - 80.0) < 2.0
    [hint] = hints_for(of_array(normals(800, 4)), "gaussian", batch_size=210)
    assert hint.evidence.startswith("210 of 560 training datapoints (38%)")
    assert hint.remedy == "set config.train.batch_size to 140 or less"


def test_a_shared_variance_cannot_vanish_in_one_column():
    dataset = of_array(grey_digits())
    assert causes(dataset, "gaussian") == ["unbounded_density"]
    assert causes(dataset, "gaussian_shared") == []


def test_test_data_are_not_read():
    """`of_splits` has test data of no shape; these checks also give the same for any others."""
    x = normals(900, 4)
    assert causes(of_splits(x[:800], x[800:]), "gaussian") == []
    dataset = of_array(normals(1000, 4))
    bad = dataset._replace(test=np.full((3, 4), np.nan), valid=np.asarray(dataset.valid)[:0])
    leaked = bad._replace(test=np.asarray(dataset.train))
    assert causes(bad, "gaussian") == causes(leaked, "gaussian") == []


def test_data_on_disk_have_the_same_hints(tmp_path: Any):
    dataset = of_array(mostly_zero())
    stored = data.on_disk(dataset, Options(dir=str(tmp_path)))
    found = hints_for(stored, "gaussian")
    assert found == hints_for(dataset, "gaussian")
    assert [hint.cause for hint in found] == ["unbounded_density"]


def test_one_datapoint_and_no_validation_data_raise_no_error():
    found = causes(of_splits(small_data.normals(1, 2)), "gaussian", batch_size=1)
    assert found == ["few_datapoints", "few_per_statistic", "large_minibatch"]
