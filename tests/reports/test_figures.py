"""Figures: the position of each part. Their appearance is not tested."""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest
import scipy.stats
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aevb import guides
from aevb.data import Dataset
from aevb.distributions import DiagNormal, StandardNormal
from aevb.evaluation import manifold
from aevb.losses import Joint
from aevb.reports import figures, run_figures
from aevb.vae import VAE

CURVE = {
    "examples": [100, 1000, 10_000],
    "train_bound": [-200.0, -120.0, -100.0],
    "test_bound": [-210.0, -130.0, -115.0],
}


def transparent_vae() -> VAE:
    """Returns a VAE with mean z and a guide that is nearly a point at x, so that inputs show."""
    return VAE(
        init=lambda key: (),
        encode=lambda params, x: DiagNormal(x, jnp.full(2, -30.0)),
        guide=guides.diag_normal,
        joint=lambda params, x: Joint(lambda z: jnp.zeros(()), lambda z: jnp.zeros(())),
        prior=lambda params: StandardNormal(2),
        mean=lambda params, z: z,
        draw=lambda key, params, z: z,
        sample=lambda key, params: (jax.random.normal(key, (2,)), jnp.zeros(2)),
        num_latents=2,
    )


def drawn(axes: Axes) -> np.ndarray:
    array = axes.images[0].get_array()
    assert array is not None
    return np.asarray(array)


def only_axes(figure: Figure) -> Axes:
    (axes,) = figure.axes
    return axes


def test_the_bound_curve_has_the_logged_values_and_labelled_axes():
    axes = only_axes(figures.bound_curve(CURVE, title="some model"))
    lines = {line.get_label(): line for line in axes.lines}
    for split in ("train", "test"):
        np.testing.assert_array_equal(lines[split].get_xdata(), CURVE["examples"])
        np.testing.assert_array_equal(lines[split].get_ydata(), CURVE[f"{split}_bound"])
    assert axes.get_xscale() == "log"
    assert "nats" in axes.get_ylabel()
    assert axes.get_title() == "some model"


def test_the_bound_curve_cuts_off_a_start_far_below_the_end():
    low = {**CURVE, "train_bound": [-1e6, -120.0, -100.0]}
    bottom, top = only_axes(figures.bound_curve(low, title="")).get_ylim()
    assert -1000.0 < bottom < -210.0
    assert -100.0 < top < -50.0


def test_a_bound_curve_with_nonfinite_values_is_drawn():
    broken = {**CURVE, "test_bound": [-210.0, np.nan, -np.inf]}
    assert np.all(np.isfinite(only_axes(figures.bound_curve(broken, title="")).get_ylim()))


def test_curves_of_several_seeds_share_a_panel():
    figure = figures.bound_curves({"a": [CURVE, CURVE], "b": [CURVE], "c": [CURVE]})
    assert [axes.get_title() for axes in figure.axes] == ["a", "b", "c"]
    assert [len(axes.lines) for axes in figure.axes] == [4, 2, 2]


def test_tiled_images_are_in_their_rows_and_columns():
    images = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    tiled = figures.tile(images)
    assert tiled.shape == (8, 15)
    for row, column in np.ndindex(2, 3):
        part = tiled[4 * row : 4 * row + 4, 5 * column : 5 * column + 5]
        np.testing.assert_array_equal(part, images[row, column])


def test_the_unit_square_goes_through_the_inverse_gaussian_cdf():
    """The first latent increases to the right, the second upward."""
    quantiles = manifold.QUANTILES
    means = np.asarray(manifold.decode_unit_square(transparent_vae(), ()))
    side = manifold.SIDE
    assert means.shape == (side, side, 2)
    np.testing.assert_allclose(quantiles, (np.arange(side) + 0.5) / side)
    latents = scipy.stats.norm.ppf(quantiles)
    for row, column in ((0, 0), (3, 7), (side - 1, 2)):
        expected = [latents[column], latents[side - 1 - row]]
        np.testing.assert_allclose(means[row, column], expected, rtol=1e-4)


def test_the_manifold_labels_its_axes_with_those_quantiles():
    quantiles = manifold.QUANTILES
    means = np.asarray(manifold.decode_unit_square(transparent_vae(), ()))
    axes = only_axes(figures.manifolds({"": means[..., None]}, quantiles))
    across = [label.get_text() for label in axes.get_xticklabels()]
    up = [label.get_text() for label in axes.get_yticklabels()]
    assert (across[0], across[-1]) == ("0.03", "0.97")
    assert (up[0], up[-1]) == ("0.97", "0.03")  # the first row is at the top
    assert "first latent" in axes.get_xlabel()
    np.testing.assert_array_equal(drawn(axes), figures.tile(means[..., None]))


def test_reconstructions_are_drawn_below_their_originals():
    grey = np.random.default_rng(0).integers(0, 256, (50, 2)).astype(np.uint8)
    dataset = Dataset(
        name="pixels",
        train=grey,
        test=grey,
        kind="grey",
        preprocess=lambda key, x: x.astype(jnp.float32) / 256,
        image_shape=(1, 2),
        levels=256.0,
    )
    originals, means = map(np.asarray, run_figures.reconstruct(transparent_vae(), (), dataset))
    np.testing.assert_allclose(means, originals, atol=1e-4)
    rows = {tuple(row) for row in grey / 256}
    assert all(tuple(row.astype(np.float64)) in rows for row in originals)
    figure = figures.reconstructions(
        originals.reshape(-1, 1, 2), 1 - means.reshape(-1, 1, 2), title=""
    )
    picture = drawn(only_axes(figure))
    np.testing.assert_allclose(picture[0], originals.ravel())
    np.testing.assert_allclose(picture[1], 1 - means.ravel())


def test_the_figure_of_samples_draws_from_the_prior():
    means = np.asarray(run_figures.sample_means(transparent_vae(), ()))
    assert len(np.unique(means)) == 2 * run_figures.NUM_SAMPLES
    assert scipy.stats.kstest(means.ravel(), scipy.stats.norm.cdf).pvalue > 1e-3


def test_samples_fill_a_square_grid():
    images = np.random.default_rng(0).uniform(size=(10, 2, 2))
    picture = drawn(only_axes(figures.samples({"": images})))
    np.testing.assert_array_equal(picture, figures.tile(images[:9].reshape(3, 3, 2, 2)))


@pytest.mark.parametrize("title", ["", "a title"])
def test_a_saved_figure_is_a_picture_of_its_size(title: str, tmp_path: Path):
    figures.save(figures.bound_curve(CURVE, title=title), str(tmp_path / "bound.png"))
    picture = matplotlib.image.imread(tmp_path / "bound.png")
    assert picture.shape[:2] == (4 * figures.DPI, 6 * figures.DPI)
    assert len(np.unique(picture)) > 10  # the picture is not blank
