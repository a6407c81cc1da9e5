"""Discrete latents by config: what is built, what a run writes, and what is refused."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from configs import changed
from marks import slow_but
from programs import run_program

from aevb import learned_baseline, priors, proposals, runs, vae
from aevb.algorithms.base import Batch
from aevb.config import Values
from aevb.errors import UserError
from aevb.evaluation import diagnostics
from aevb.evaluation.elbo import fixed_inputs
from aevb.experiment import Experiment, build
from aevb.guides import bernoulli
from aevb.losses import Guide, Joint
from aevb.marginal import ESTIMATORS
from aevb.networks import Network
from aevb.reports import run_figures
from aevb.reports.explorer import explorer_page
from aevb.runs.trained import load_run, model_of

KEY = jax.random.key(0)
ROWS = {"model.guide_options.num_classes": 3, "model.prior_options.num_classes": 3}
RELAXED = {"algorithm.bound": "sgvb_a"}
WAYS: dict[str, dict[str, Any]] = {
    "score_function": {"algorithm.bound": "score_function"},
    "score_function_loo": {"algorithm.bound": "score_function_loo"},
    "vimco": {"algorithm.bound": "vimco"},
    "nvil": {"algorithm.bound": "nvil"},
    "nvil of a Gaussian": {
        "algorithm.bound": "nvil", "model.guide": "diag_normal", "model.prior": "standard_normal",
    },
    "wake_sleep": {"algorithm.name": "wake_sleep"},
    "reweighted_wake_sleep": {"algorithm.name": "reweighted_wake_sleep"},
    "full_vb": {"algorithm.name": "full_vb", "algorithm.bound": "score_function_loo"},
    "categorical": {"model.guide": "categorical", "model.prior": "categorical", **ROWS},
    "vamp": {"model.prior": "vamp", "model.prior_components": 4},
    "relaxed": {
        "model.guide": "relaxed_bernoulli", "model.prior": "relaxed_bernoulli", **RELAXED,
    },
    "relaxed rows": {
        "model.guide": "relaxed_categorical", "model.prior": "relaxed_categorical", **ROWS,
        **RELAXED,
    },
}  # fmt: skip


def images(folder: Path) -> Path:
    """Writes 200 binary images of 4 x 3 pixels, in which rows are alike."""
    rng = np.random.default_rng(0)
    rows = rng.uniform(size=(200, 4, 1)) < 0.5
    noise = rng.uniform(size=(200, 4, 3)) < 0.05
    np.save(folder / "images.npy", rows ^ noise)
    return folder / "images.npy"


def small(**fields: Any) -> Values:
    short = {
        "data.name": "synthetic", "data.synthetic_num_train": 200, "model.hidden": (),
        "model.likelihood": "gaussian_shared", "model.num_latents": 6, "model.guide": "bernoulli",
        "model.prior": "bernoulli", "model.init": "fan_in", "algorithm.bound": "vimco",
        "algorithm.num_samples": 3, "train.num_examples": 2000, "train.first_eval": 500,
        "optimizer.step_size": 0.05,
    }  # fmt: skip
    return changed(**{**short, **fields})


def of_images(folder: Path, **fields: Any) -> Values:
    return small(
        **{"data.name": f"file:{images(folder)}", "model.likelihood": "bernoulli", **fields}
    )


@pytest.mark.parametrize("way", slow_but(["nvil", "relaxed rows"], WAYS))
def test_every_way_moves_all_parameters_and_has_a_finite_bound(way: str):
    built = build(small(**WAYS[way]))
    batch = Batch(jnp.asarray(built.dataset.train[:100]), jnp.arange(100))
    start = jax.jit(built.algorithm.init)(KEY)
    state, metrics = jax.jit(built.algorithm.update)(KEY, start, batch)
    assert np.isfinite(metrics["objective"])
    for before, after in zip(
        jax.tree.leaves(start.params), jax.tree.leaves(state.params), strict=True
    ):
        assert np.all(np.isfinite(after))
        assert np.any(before != after)
    params = built.algorithm.vae_params(state.params)
    z, x = jax.jit(built.vae.sample)(KEY, params)
    assert z.shape == (6,)
    assert np.all(np.isfinite(x))
    if way in ("relaxed", "relaxed rows"):
        seen = jax.nn.sigmoid(z) if way == "relaxed" else jnp.exp(z)
        assert np.all((seen > 0) & (seen < 1))
    elif way != "nvil of a Gaussian":
        assert set(np.asarray(z).tolist()) <= {0.0, 1.0}


def test_a_decoder_of_a_relaxed_prior_takes_numbers_from_0_to_1():
    """Its outputs are those of the discrete model at the rounded z, where z is far from 0."""
    relaxed, discrete = build(small(**WAYS["relaxed"])).vae, build(small()).vae
    params = discrete.init(KEY)
    z = jnp.float32([1.0, 0.0, 0.0, 1.0, 1.0, 0.0])
    far = relaxed.mean(params, 200.0 * (2.0 * z - 1.0))
    np.testing.assert_allclose(far, discrete.mean(params, z), rtol=1e-5)


def test_the_baseline_of_nvil_is_no_part_of_the_model_and_of_the_size_of_the_data():
    built, plain = build(small(**{"algorithm.bound": "nvil"})), build(small())
    params = built.vae.init(KEY)
    x = jnp.asarray(built.dataset.train[0])
    stats = built.vae.encode(params, x)
    baseline = params["encoder"]["baseline"]["baseline"]
    raised = jax.tree.map(jnp.asarray, params)
    raised["encoder"]["baseline"]["baseline"] = {**baseline, "bias": baseline["bias"] + 1.0}
    after = built.vae.encode(raised, x)
    np.testing.assert_allclose(after.baseline - stats.baseline, len(x), rtol=1e-5)
    np.testing.assert_array_equal(after.stats.logits, stats.stats.logits)
    own = {name: leaf for name, leaf in params["encoder"].items() if name != "baseline"}
    others = plain.vae.encode({**params, "encoder": own}, x)
    np.testing.assert_array_equal(others.logits, stats.stats.logits)
    mean, log_var, _ = diagnostics.marginals(KEY, stats, built.vae.guide)
    np.testing.assert_array_equal(mean, others.mean())
    np.testing.assert_array_equal(log_var, others.log_var())


def test_a_baseline_takes_missing_values_as_0():
    encoder = learned_baseline.of_encoder(Network(lambda key: {}, lambda params, x: {}), 3)
    params = encoder.init(KEY)
    gap, zero = (encoder.apply(params, jnp.float32([1.0, x, 2.0])) for x in (jnp.nan, 0.0))
    assert np.isfinite(gap["baseline"])
    np.testing.assert_array_equal(gap["baseline"], zero["baseline"])


@pytest.mark.parametrize("num_latents", slow_but([2], [2, 6]))
def test_a_run_has_the_files_of_images_and_no_plane(num_latents: int, tmp_path: Path):
    values = of_images(tmp_path, **{"model.num_latents": num_latents})
    summary = runs.run(values, tmp_path / "run")
    assert summary["test_bound"] > -9.0  # 12 log 2 = 8.3 and the start
    assert summary["manifold"] is None
    drawn = {file.stem for file in (tmp_path / "run" / "figures").glob("*.png")}
    assert drawn == {"bound", "reconstructions", "samples"}
    page = (tmp_path / "run" / "explorer.html").read_text()
    assert '"support": "0 and 1"' in page.replace('"support":"', '"support": "')
    run = load_run(tmp_path / "run")
    z, x = run.model.sample(KEY)
    bound = run.model.bound(KEY, x.astype(jnp.float32), num_samples=2000)
    log_p = run.model.log_prob(KEY, x.astype(jnp.float32), num_samples=2000)
    assert bound < log_p < bound + 5.0
    assert set(np.asarray(z).tolist()) <= {0.0, 1.0}
    records = run.history[-1]
    assert 0 <= records["train_active_units"] <= num_latents
    assert np.isfinite(records["train_posterior_log_var_min"])


@pytest.mark.slow
@pytest.mark.parametrize("way", ["vimco", "nvil", "relaxed", "wake_sleep"])
def test_a_run_goes_on_bitwise_as_if_it_had_not_stopped(way: str, tmp_path: Path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    runs.run(small(**WAYS[way]), whole)
    for num_examples in (1000, 2000):
        runs.run(small(**WAYS[way], **{"train.num_examples": num_examples}), parts)
    params = [load_run(folder).model.params for folder in (whole, parts)]
    jax.tree.map(np.testing.assert_array_equal, *params)


@pytest.mark.slow
def test_a_sweep_over_bounds_has_a_run_of_each(tmp_path: Path):
    done = run_program(
        "experiments/run.py", "--config=experiments/sigmoid_belief_network.py",
        f"--config.data.name=file:{images(tmp_path)}", "--config.model.num_latents=3",
        "--config.train.num_examples=400", "--config.train.batch_size=40", "--sweep",
        "--axis=algorithm.bound=nvil,vimco", "--axis=optimizer.step_size=0.01", "--axis=seed=0,1",
        f"--workdir={tmp_path / 'sweep'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "sweep").rglob("summary.json"))) == 4


def test_the_explorer_page_of_discrete_latents_shows_draws():
    built = build(small())
    params = built.vae.init(KEY)
    records = [{"examples": 1, "train_bound": -1.0, "test_bound": -1.0}]
    summary = {"num_examples": 1, "test_bound": -1.0, "test_bound_standard_error": 0.1}
    page = explorer_page(built, params, records, small(), summary)
    assert "of which there is no plane" in page
    assert "NaN" not in page


REFUSED: list[tuple[dict[str, Any], str]] = [
    *(
        ({"algorithm.bound": bound}, f"bound is '{bound}', whose gradient passes through z, and z")
        for bound in ("sgvb_a", "sgvb_b", "iwae", "dreg", "stl", "free_bits", "piwae")
    ),
    ({"algorithm.name": "full_vb", "algorithm.bound": "sgvb_b"}, "use one of score_function"),
    ({"model.prior": "standard_normal"}, "of real numbers, and config.model.guide=bernoulli draws"),
    ({"model.guide": "diag_normal"}, "'bernoulli', of 0 and 1, and config.model.guide=diag_normal"),
    ({"model.guide": "categorical", "model.prior": "categorical"}, "num_classes is 10"),
    (
        {"model.guide": "categorical", "model.prior": "categorical", **ROWS,
         "model.prior_options.num_classes": 2},
        "one-hot rows of 2, and .* draws one-hot rows of 3",
    ),
    ({**WAYS["relaxed"], "model.guide_options.temperature": 0.0}, "temperature is 0.0"),
    ({**WAYS["relaxed"], "model.prior_options.temperature": -1.0}, "temperature is -1.0"),
    ({"algorithm.name": "mcem"}, "config.algorithm.name=mcem needs real numbers"),
    ({"model.num_latents": (3, 2), "model.guide": "diag_normal"}, "prior=bernoulli is of one"),
    (
        {"model.num_latents": (3, 2), "model.guide": "diag_normal",
         "model.prior": "relaxed_bernoulli"},
        "prior=relaxed_bernoulli is of one layer",
    ),
    ({"algorithm.kl_schedule": "linear"}, "kl_schedule"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "message"), REFUSED)
def test_what_discrete_latents_cannot_have_is_refused_in_one_line(
    fields: dict[str, Any], message: str
):
    with pytest.raises(UserError, match=message) as caught:
        build(small(**fields))
    assert len(str(caught.value).splitlines()) == 1


def test_a_bound_of_ones_own_is_not_refused():
    """Whether its gradient is right is not known."""
    assert isinstance(build(small()), Experiment)
    with pytest.raises(ValueError, match="the prior is of 0 and 1 and the guide of real numbers"):
        vae.make(
            None, *[None] * 2, num_latents=2,  # pyright: ignore[reportArgumentType]
            prior_family=priors.bernoulli(priors.Options(2)),
        )  # fmt: skip


@pytest.mark.parametrize("name", ["ais", "reverse_ais", "appendix_d", "laplace", "modes"])
def test_what_moves_along_gradients_is_refused_where_z_is_not_real(name: str):
    built = build(small())
    params = built.vae.init(KEY)
    x = jnp.asarray(built.dataset.train[0])
    arguments = (KEY, built.vae.encode(params, x), built.vae.guide, built.vae.joint(params, x))
    sizes: dict[str, dict[str, Any]] = {
        "ais": {"num_temps": 3, "num_chains": 2},
        "reverse_ais": {"num_temps": 3, "num_chains": 2, "posterior_sample": jnp.zeros(6)},
        "appendix_d": {"num_samples": 4, "num_chains": 4},
    }
    moving = ESTIMATORS[name].estimate if name in sizes else proposals.PROPOSALS[name]
    with pytest.raises(ValueError, match="z is of 0 and 1, and HMC, L-BFGS"):
        moving(*arguments, **sizes.get(name, {}))
    with pytest.raises(ValueError, match="whose samples carry no gradient"):
        diagnostics.inference_gaps(*arguments, jnp.float32(0.0))


@pytest.mark.slow
def test_evaluate_scores_discrete_latents_by_importance_and_refuses_the_rest(tmp_path: Path):
    runs.run(of_images(tmp_path, **{"train.num_examples": 500}), tmp_path / "run")
    common = ("experiments/evaluate.py", f"--workdir={tmp_path / 'run'}", "--num_points=5")
    for flags in (("--estimators=ais",), ("--estimators=importance", "--proposal=modes")):
        done = run_program(*common, *flags)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert "z of this run is of 0 and 1" in line
        assert "--estimators=importance --proposal=encoder" in line
    done = run_program(*common, "--estimators=importance", "--proposal=encoder", "--num_samples=50")
    assert done.returncode == 0, done.stderr


def test_samples_of_a_model_of_images_are_drawn_without_a_plane():
    values = small(
        **{"data.name": "frey_faces", "model.likelihood": "gaussian_unit_mean",
           "model.num_latents": 2}
    )  # fmt: skip
    built = build(values)
    found = run_figures.generated_images(built.vae, built.vae.init(KEY), built.dataset.description)
    assert set(found) == {"samples"}


def test_a_product_of_guides_is_discrete_if_one_factor_is():
    from aevb import factors
    from aevb.guides import diag_normal

    both = factors.guide({"y": bernoulli, "z": diag_normal})
    assert both.support == "0 and 1, real numbers"
    assert not both.is_reparameterized
    alone = factors.guide({"z": diag_normal})
    assert alone.support == Guide(lambda k, s: s, lambda s, z: z).support
    assert alone.is_reparameterized
    assert isinstance(Joint(bernoulli, lambda z: z), Joint)


def test_a_model_of_discrete_latents_fills_gaps_by_samples_from_its_encoder():
    values = small(**{"data.hide": "entries"})
    dataset, vae, _ = build(values)
    model = model_of(vae, vae.init(KEY), dataset.description)
    x = fixed_inputs(dataset.preprocess, np.arange(1), np.asarray(dataset.train[:1]))[0]
    found = model.impute(KEY, x, num_samples=20, num_draws=3)
    is_seen = ~np.isnan(x)
    assert not np.all(is_seen)
    np.testing.assert_array_equal(found.mean[is_seen], x[is_seen])
    assert np.all(np.isfinite(found.mean))
    assert np.all(np.isfinite(found.draws))
