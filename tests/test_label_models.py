"""Models with labels, by config and from arrays: their objective, what a run records, refusals."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from marks import slow_but
from PIL import Image
from refusals import refusal
from sklearn.datasets import load_digits

import aevb
from aevb import label_models, labels, runs
from aevb.algorithms.base import Batch
from aevb.config import default_config, validate, with_values
from aevb.data import Dataset, Options, splits
from aevb.errors import UserError
from aevb.evaluation import elbo
from aevb.experiment import Experiment, build
from aevb.losses import REAL, sgvb_b
from aevb.reports import run_figures
from aevb.runs.trained import TrainedRun, dataset_of, load_run
from aevb.sweeps import sweep
from aevb.sweeps.grid import make_plan

KEY = jax.random.key(0)
SMALL: dict[str, Any] = {
    "model.hidden": (12,), "model.layer_hidden": (8,), "train.num_examples": 6000,
    "train.batch_size": 50, "train.first_eval": 3000, "train.evals_per_decade": 2,
    "optimizer.name": "adagrad", "optimizer.step_size": 0.05, "data.num_labels": 60,
    "data.split": "random",
}  # fmt: skip


def digits(number: int = 600) -> tuple[np.ndarray, np.ndarray]:
    """Returns binary images [N, 8, 8] of the digits 0, 1 and 2, and their labels."""
    x, y = load_digits(n_class=3, return_X_y=True)
    return (x[:number] > 7).reshape(-1, 8, 8), y[:number]


def small(**fields: Any) -> Any:
    settings = {"data.name": "array:x", "data.binarization": "none", "model.likelihood": "",
                "model.labels": "m2", "model.init": "fan_in", **SMALL, **fields}  # fmt: skip
    return validate(with_values(default_config(), settings))


def built(**fields: Any) -> Experiment:
    values = small(**fields)
    return build(values, dataset_of(digits(), values))


@pytest.fixture(scope="module")
def fitted() -> TrainedRun:
    x, y = digits()
    return aevb.fit(x, SMALL, y=y)


# What is trained


@pytest.mark.parametrize("kind", slow_but(["m2"], ["m2", "conditional"]))
def test_the_objective_is_the_mean_bound_of_the_labels_that_are_shown(kind: str):
    """Plus the weighted mean of log q(y|x) over the datapoints with a label."""
    shown = {"m2": 60, "conditional": 0}[kind]
    experiment = built(**{"model.labels": kind, "data.num_labels": shown})
    dataset, vae, algorithm = experiment
    state = algorithm.init(KEY)
    assert dataset.labels is not None
    known = dataset.labels.shown
    indices = jnp.arange(20)
    x = jnp.float32(dataset.train)
    update = jax.jit(jax.vmap(algorithm.update, in_axes=(0, None, None)))
    keys = jax.random.split(KEY, 2000)
    _, metrics = update(keys, state, Batch(x[:20], indices))
    params = state.params
    assert vae.given_label is not None

    def of_one(key: jax.Array, x: jax.Array, label: jax.Array) -> jax.Array:
        model = labels.of_latents(vae.encode(params, x), vae.given_label, vae.joint(params, x))  # pyright: ignore[reportArgumentType]
        of = labels.conditional_bound if kind == "conditional" else labels.labelled_bound
        return of(key, label, model, bound=sgvb_b, num_samples=500)

    bounds = jax.jit(jax.vmap(of_one))(
        jax.random.split(jax.random.key(1), 20), x[:20], jnp.asarray(known[:20])
    )
    log_q = jax.vmap(lambda x: jax.nn.log_softmax(vae.encode(params, x).logits))(x)
    of_known = np.asarray(log_q)[np.arange(len(known)), known][known >= 0]
    expected = float(jnp.mean(bounds)) + 0.1 * float(np.mean(of_known))
    draws = np.asarray(metrics["objective"], np.float64)
    spread = np.std(draws) * (1.0 / np.sqrt(500) + 1.0 / np.sqrt(len(draws)))
    assert abs(np.mean(draws) - expected) < 4.0 * spread + 1e-3


def test_labels_that_are_not_shown_change_nothing():
    """Those of other datapoints are permuted, and training gives the same bits."""
    values = small()
    dataset = dataset_of(digits(), values)
    assert dataset.labels is not None
    assert dataset.labels.is_shown is not None
    hidden = np.where(dataset.labels.is_shown, dataset.labels.train, 2 - dataset.labels.train)
    other = dataset._replace(labels=dataset.labels._replace(train=hidden))
    states = []
    for data in (dataset, other):
        algorithm = build(values, data).algorithm
        batch = Batch(jnp.float32(data.train[:30]), jnp.arange(30))
        states.append(jax.jit(algorithm.update)(KEY, algorithm.init(KEY), batch)[0])
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_a_label_at_the_end_of_a_datapoint_is_that_of_the_guide():
    _, vae, _ = built()
    params, x = vae.init(KEY), jnp.zeros(64).at[:10].set(1.0)
    seen = vae.encode(params, jnp.append(x, 2.0))
    assert (int(seen.label), int(vae.encode(params, x).label)) == (2, labels.NOT_SEEN)
    z = vae.guide.sample(KEY, seen)
    np.testing.assert_array_equal(z[:3], [0.0, 0.0, 1.0])
    assert z.shape == (vae.num_latents,) == (3 + 2,)
    of_x = vae.joint(params, jnp.append(x, 2.0)).log_lik(z)
    np.testing.assert_array_equal(of_x, vae.joint(params, x).log_lik(z))


@pytest.mark.parametrize("guide", slow_but(["full_normal"], ["full_normal", "iaf"]))
def test_other_guides_and_bounds_have_labels_too(guide: str):
    bound = {"full_normal": "dreg", "iaf": "iwae"}[guide]
    _, _, algorithm = built(
        **{"model.guide": guide, "algorithm.bound": bound, "algorithm.num_samples": 2}
    )
    batch = Batch(jnp.zeros((4, 64)), jnp.arange(4))
    state, metrics = jax.jit(algorithm.update)(KEY, algorithm.init(KEY), batch)
    assert np.isfinite(metrics["objective"])
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state.params))


# What a run records


def test_a_run_classifies_and_records_its_errors(fitted: TrainedRun):
    assert fitted.summary["test_label_error"] < 0.2
    x, known = fitted.points("test"), fitted.dataset.labels.test  # pyright: ignore[reportOptionalMemberAccess]
    probs = jax.vmap(fitted.label_probs)(jnp.asarray(x))
    np.testing.assert_allclose(np.sum(probs, axis=1), 1.0, rtol=1e-5)
    error = np.mean(np.argmax(probs, axis=1) != known)
    assert fitted.summary["test_label_error"] == pytest.approx(error)
    assert {"valid_label_error", "train_label_error", "train_rate_y"} <= fitted.history[-1].keys()
    assert fitted.summary["test_bound"] > fitted.history[0]["valid_bound"]


def test_the_bound_given_the_label_is_that_of_log_p_of_x_given_y(fitted: TrainedRun):
    """It is within log C of the bound on log p(x) if the label is certain."""
    summary = fitted.summary
    assert abs(summary["test_conditional_bound"] - summary["test_bound"]) < np.log(3.0) + 1.0
    model = fitted.model
    x = jnp.float32(fitted.points("test")[0].reshape(-1))
    log_p = model.log_prob(KEY, x, num_samples=2000)
    given_label = model.vae.given_label
    assert given_label is not None

    @jax.jit
    def log_joint_probs(x: jax.Array) -> jax.Array:
        of_x = labels.of_latents(model.encode(x), given_label, model.vae.joint(model.params, x))
        return labels.log_joint_probs(KEY, of_x, num_samples=2000)

    log_joint = log_joint_probs(x)
    np.testing.assert_allclose(log_p, jax.nn.logsumexp(log_joint), atol=0.3)
    bounds = [model.bound(KEY, jnp.append(x, float(y)), num_samples=2000) for y in range(3)]
    assert np.all(np.asarray(bounds) < log_joint + 0.1)
    assert model.bound(KEY, x, num_samples=2000) < log_p + 0.1


def test_analogies_have_a_row_for_each_test_image(fitted: TrainedRun):
    vae, params = fitted.model.vae, fitted.model.params
    found = np.asarray(run_figures.analogies(vae, params, fitted.dataset))
    assert found.shape == (run_figures.NUM_ANALOGIES, 1 + 3, 64)
    first = elbo.fixed_inputs(fitted.dataset.preprocess, np.array([0]), fitted.dataset.test[:1])
    np.testing.assert_array_equal(found[0, 0], first[0])
    assert not np.allclose(found[:, 1], found[:, 2])
    # The label of the image reconstructs it better than the others do, on average.
    known = fitted.dataset.labels.test  # pyright: ignore[reportOptionalMemberAccess]
    index = np.linspace(0, len(known) - 1, run_figures.NUM_ANALOGIES).astype(int)
    errors = np.mean((found[:, 1:] - found[:, :1]) ** 2, axis=2)
    assert np.mean(errors[np.arange(len(index)), known[index]]) < np.mean(errors)


def test_missing_labels_of_an_array_are_neither_seen_nor_scored():
    x, y = digits()
    values = small(**{"data.num_labels": 0})
    dataset = dataset_of((x, np.where(np.arange(len(y)) % 2 == 0, y, -1)), values)
    found = dataset.labels
    assert found is not None
    np.testing.assert_array_equal(found.is_shown, found.train >= 0)
    assert 0.4 < np.mean(found.train >= 0) < 0.6
    experiment = build(values, dataset)
    params, score = experiment.vae.init(KEY), runs.score_of(experiment)
    known = np.flatnonzero(found.test >= 0)
    of_all, of_known, of_none = (
        score(params, dataset.test, index).measures
        for index in (np.arange(len(found.test)), known, np.flatnonzero(found.test < 0))
    )
    for name in ("label_error", "conditional_bound"):
        assert of_all[name] == pytest.approx(of_known[name], rel=1e-6)
        assert name not in of_none


def test_without_a_model_of_labels_the_data_only_have_them(undisturbed: Path):
    """M1 is the plain model on the same split."""
    dataset, vae, _ = built(**{"model.labels": ""})
    assert vae.num_labels == 0
    assert dataset.labels is not None
    assert np.sum(dataset.labels.shown >= 0) == 60
    with pytest.raises(UserError, match=r"has no labels; set config\.model\.labels=m2"):
        load_run(undisturbed).label_probs(jnp.zeros(10))


# Runs in folders


@pytest.mark.slow
def test_a_run_in_a_folder_is_loaded_with_its_labels(tmp_path: Path):
    x, y = digits()
    fields = {**SMALL, "train.num_examples": 1000, "train.first_eval": 500}
    run = aevb.fit(x, fields, y=y, folder=tmp_path / "run")
    assert (tmp_path / "run" / "figures" / "analogies.png").is_file()
    again = load_run(tmp_path / "run", which="best")
    jax.tree.map(np.testing.assert_array_equal, run.model.params, again.model.params)
    one = jnp.asarray(x[0])
    np.testing.assert_array_equal(run.label_probs(one), again.label_probs(one))
    with_data = load_run(tmp_path / "run", data=(x, y)).dataset
    np.testing.assert_array_equal(with_data.labels.shown, run.dataset.labels.shown)  # pyright: ignore[reportOptionalMemberAccess]
    other = np.where(y < 2, 1 - y, y)
    with pytest.raises(UserError, match="are not those that the run"):
        _ = load_run(tmp_path / "run", data=(x, other)).dataset
    with pytest.raises(UserError, match="has labels"):
        run.export(tmp_path / "exported")


@pytest.mark.slow
def test_a_run_with_labels_goes_on_bitwise_as_if_it_had_not_stopped(tmp_path: Path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    values = small()
    data = dataset_of(digits(), values)
    runs.run(values, whole, dataset=data)
    for num_examples in (3000, 6000):
        runs.run(small(**{"train.num_examples": num_examples}), parts, dataset=data)
    params = [load_run(folder).model.params for folder in (whole, parts)]
    jax.tree.map(np.testing.assert_array_equal, *params)


@pytest.mark.slow
def test_a_sweep_over_draws_of_labels_trains_each_on_its_own(tmp_path: Path):
    x, y = digits(120)
    for number, (image, label) in enumerate(zip(x, y, strict=True)):
        folder = tmp_path / "images" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.uint8(255 * image)).save(folder / f"{number}.png")
    fields = {
        **SMALL, "data.name": f"images:{tmp_path / 'images'}", "data.binarization": "fixed",
        "model.likelihood": "bernoulli", "model.labels": "m2", "data.num_labels": 6,
        "train.num_examples": 500, "train.first_eval": 500,
    }  # fmt: skip
    config = with_values(default_config(), fields)
    plan = make_plan(config, {"data.label_seed": (0, 1)})
    for mapping in ("sequence", "stack"):
        result = sweep.run(plan, tmp_path / mapping, mapping)
        assert [row["seeds"] for row in result["rows"]] == [1, 1]
        assert not any(row["failed"] for row in result["rows"])
    folders = sorted((tmp_path / "stack").glob("*/summary.json"))
    params = [load_run(file.parent).model.params for file in folders]
    same = [load_run(tmp_path / "sequence" / file.parent.name).model.params for file in folders]
    jax.tree.map(np.testing.assert_array_equal, params, same)
    first, second = (jax.tree.leaves(each) for each in params)
    assert not all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


# The draw of labels


def test_as_many_labels_are_drawn_of_each_class():
    classes = np.repeat(np.arange(4), [10, 20, 30, 40])
    classes[::7] = -1
    draw = partial(splits.drawn_labels, classes, ("a", "b", "c", "d"))
    shown = [draw(12, seed) for seed in range(3)]
    for one in shown:
        assert np.bincount(classes[one]).tolist() == [3, 3, 3, 3]
    assert len({one.tobytes() for one in shown}) == 3
    np.testing.assert_array_equal(draw(12, 1), shown[1])
    assert sorted(np.bincount(classes[draw(14, 0)]).tolist()) == [3, 3, 4, 4]
    np.testing.assert_array_equal(draw(0, 0), classes >= 0)


@pytest.mark.parametrize(("number", "message"), [(3, "at least the 4 classes"), (60, "15 of each")])
def test_too_few_labels_are_refused(number: int, message: str):
    classes = np.repeat(np.arange(4), 10)
    assert message in refusal(splits.drawn_labels, classes, ("a", "b", "c", "d"), number, 0)


# Refusals


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data.num_labels": -1}, "shows it none; set their number, or 0"),
        ({"model.labels": "conditional"}, "leaves out others; set 0"),
        ({"algorithm.name": "wake_sleep"}, "has no labels; use aevb"),
        ({"model.num_latents": (3, 2)}, "are several layers; set one number"),
        ({"model.layer_hidden": ()}, "first number is that of features"),
        ({"algorithm.kl_schedule": "linear"}, "kl_schedule=linear is not for it"),
        ({"algorithm.bound": "nvil"}, "nvil has no baseline for each label"),
        ({"model.prior": "relaxed_bernoulli", "model.guide": "relaxed_bernoulli"}, "is relaxed"),
        ({"model.prior": "vamp"}, r"needs q\(z\|x\) without a label"),
        ({"model.labels": "m3"}, "it must be one of , conditional, m2"),
        ({"algorithm.bound": "free_bits", "model.guide": "iaf"}, "free_bits"),
        ({"data.num_labels": 2}, "at least the 3 classes"),
    ],
)
def test_settings_that_labels_refuse_are_named(fields: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        built(**fields)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.zeros(3, int), r"y has the shape \(3,\)"),
        (np.zeros(537), "holds float64"),
        (np.full(537, -1), "holds 0 classes"),
        (np.full(537, 2), "holds 1 classes"),
        (np.arange(537) - 2, "numbers from -2"),
    ],
)
def test_unsuitable_labels_of_an_array_are_refused(y: np.ndarray, message: str):
    x = digits(537)[0]
    with pytest.raises(UserError, match=message):
        aevb.fit(x, SMALL, y=y)


def test_data_without_labels_are_refused():
    assert "synthetic has no labels" in refusal(aevb.data.load, "synthetic", Options(num_labels=10))
    values = small(**{"data.num_labels": 0})
    without: Dataset = dataset_of(digits(), values)._replace(labels=None)
    with pytest.raises(UserError, match="shows a model no labels"):
        build(values, without)


def test_estimators_of_continuous_latents_are_refused():
    guide = built().vae.guide
    assert guide.support == labels.SUPPORT != REAL
    assert not guide.is_reparameterized


@pytest.mark.slow
def test_the_first_label_stands_for_all_in_the_trial_of_a_bound():
    _, vae, _ = built()
    first = label_models.of_first_label(vae)
    params, x = vae.init(KEY), jnp.zeros(64)
    z = jnp.array([0.3, -0.2])
    of_vector = vae.joint(params, x).log_lik(jnp.array([1.0, 0.0, 0.0, 0.3, -0.2]))
    np.testing.assert_array_equal(first.joint(params, x).log_lik(z), of_vector)
    draws = jax.vmap(lambda key: first.guide.sample(key, first.encode(params, x)))(
        jax.random.split(KEY, 2000)
    )
    stats = vae.encode(params, x).of_z
    assert oracles.standard_errors_off(draws, np.asarray(stats.mean)[0]) < 4.0
