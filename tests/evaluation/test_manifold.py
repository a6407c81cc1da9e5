"""The decoded plane compared with data, on grids and data for which the answer is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from aevb import guides, vae
from aevb.data import Dataset
from aevb.evaluation import manifold
from aevb.likelihoods import LIKELIHOODS
from aevb.networks import Network


def grid_and_data(side: int = 4, number: int = 57, num_dims: int = 6) -> tuple[np.ndarray, ...]:
    noise = np.random.default_rng(0)
    return noise.normal(size=(side, side, num_dims)), noise.normal(size=(number, num_dims))


@pytest.mark.parametrize("size", [1, 10, 57, 100])
def test_fidelity_is_that_by_brute_force_for_every_size_of_the_blocks(size):
    grid, x = grid_and_data()
    distances = np.array(
        [[np.sqrt(np.mean((cell - one) ** 2)) for one in x] for cell in grid.reshape(-1, 6)]
    )
    found = manifold.fidelity(grid, [x[i : i + size] for i in range(0, len(x), size)])
    assert found.distance == pytest.approx(distances.min(axis=1).mean(), rel=1e-12)
    assert found.distance_90 == pytest.approx(np.quantile(distances.min(axis=1), 0.9), rel=1e-12)
    assert found.num_nearest == len(set(distances.argmin(axis=1)))


def test_a_grid_of_all_data_has_no_distance_and_shows_each_of_them():
    grid, _ = grid_and_data()
    found = manifold.fidelity(grid, [grid.reshape(-1, 6)])
    assert found.distance == pytest.approx(0.0, abs=1e-7)
    assert found.num_nearest == 16


def test_a_decoder_that_memorizes_one_datapoint_is_near_it_and_shows_no_other():
    _, x = grid_and_data()
    found = manifold.fidelity(np.tile(x[7], (4, 4, 1)), [x])
    assert found.distance == pytest.approx(0.0, abs=1e-7)
    assert found.num_nearest == 1


def test_steps_of_a_plane_are_equal_and_a_jump_raises_their_ratio():
    across, up = np.meshgrid(np.arange(20.0), np.arange(20.0))
    plane = np.stack([across, up], axis=-1)
    steps = manifold.grid_steps(plane)
    assert steps.shape == (2 * 20 * 19,)
    np.testing.assert_allclose(steps, np.sqrt(0.5))
    assert manifold.step_ratio(steps) == pytest.approx(1.0)
    plateaus = np.floor(plane / 5.0)
    assert manifold.step_ratio(manifold.grid_steps(plateaus) + 0.01) > 10.0


def test_the_steps_of_a_film_are_those_between_successive_frames():
    frames = np.array([[3, 4], [0, 4], [0, 0]])
    for kind in (float, np.uint8):
        steps = manifold.film_steps(frames.astype(kind))
        np.testing.assert_allclose(steps, [4.5**0.5, 8**0.5])


def test_draws_from_the_prior_occupy_every_cell_and_one_code_occupies_one():
    codes = np.random.default_rng(0).normal(size=(5000, 2))
    assert manifold.occupancy(codes) == 1.0
    assert manifold.occupancy(np.zeros((3, 2))) == 0.01
    assert manifold.occupancy(np.array([[100.0, -100.0]])) == 0.01
    assert manifold.occupancy(np.where(codes > 0, 1, 0.1)) == 0.04


def tiny_run(num_latents: int) -> tuple[vae.VAE, Dataset]:
    """Returns a model of two pixels that decodes sigmoid(z) and encodes the logit, and its data."""
    means = scipy.stats.norm.cdf(np.random.default_rng(1).normal(size=(2500, 2)))
    x = np.floor(256 * means).astype(np.uint8)
    head = {"log_var": jnp.full(num_latents, -2.0)}
    model = vae.make(
        Network(lambda key: {}, lambda params, x: {"mean": 4.0 * x - 2.0, **head}),
        Network(lambda key: {}, lambda params, z: {"logits": z[:2]}),
        LIKELIHOODS["continuous_bernoulli"](2),
        num_latents=num_latents,
        guide_family=guides.diag_normal_family(guides.Sizes(num_latents)),
    )
    dataset = Dataset(
        name="pixels",
        train=x[:2000],
        valid=x[2000:2200],
        test=x[2200:],
        kind="grey",
        preprocess=lambda key, x: x.astype(jnp.float32) / 256,
        image_shape=(1, 2),
        levels=256.0,
    )
    return model, dataset


def test_a_run_is_measured_on_training_data_and_on_all_data():
    model, dataset = tiny_run(2)
    params = {"encoder": {}, "decoder": {}}
    found = manifold.measure(model, params, dataset)
    assert found is not None
    grid = np.asarray(manifold.decode_unit_square(model, params))
    x = {"train": dataset.train / 256, "all": np.concatenate([*dataset.splits.values()]) / 256}
    for name, each in x.items():
        expected = manifold.fidelity(grid, [each])
        assert found[name] == {
            **{key: pytest.approx(value, rel=1e-4) for key, value in expected._asdict().items()},
            "occupancy": manifold.occupancy(4.0 * each - 2.0),
        }
    assert found["all"]["distance"] < found["train"]["distance"]
    assert found["step_ratio"] == pytest.approx(
        manifold.step_ratio(manifold.grid_steps(grid)), rel=1e-4
    )


@pytest.mark.parametrize("shape", [(1, 2), None])
def test_only_models_of_images_with_two_latents_are_measured(shape):
    model, dataset = tiny_run(2 if shape is None else 3)
    assert manifold.measure(model, {}, dataset._replace(image_shape=shape)) is None


def test_the_mean_of_the_posterior_is_exact_for_a_gaussian_and_estimated_for_others():
    from aevb.evaluation.diagnostics import posterior_marginals

    stats = guides.diag_normal_family(guides.Sizes(2)).stats(
        None, {"mean": jnp.array([1.0, -2.0]), "log_var": jnp.array([0.0, -1.0])}
    )
    mean, kl = posterior_marginals(jax.random.key(0), stats, guides.diag_normal)
    np.testing.assert_array_equal(mean, [1.0, -2.0])
    np.testing.assert_allclose(kl, [0.5, 0.5 * (np.exp(-1) + 4 - 1 + 1)], rtol=1e-6)
