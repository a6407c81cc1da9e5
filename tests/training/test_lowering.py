"""The training and evaluation programs lower for every platform, without having the hardware."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from configs import EXPERIMENTS, changed, config_of
from jax import export
from marks import slow_but
from small_sweep import stack_of

from aevb import data as datasets
from aevb import marginal
from aevb.config import Values, validate, with_values
from aevb.data import Dataset, preprocessing
from aevb.evaluation import elbo
from aevb.experiment import Experiment, build
from aevb.proposals import PROPOSALS
from aevb.training import loop
from aevb.training.loop import LoopKeys
from aevb.types import Key, PyTree

PLATFORMS = ("cpu", "cuda", "tpu")
KEY: Any = jax.ShapeDtypeStruct((), jax.random.key(0).dtype)

PAPER = {
    name: validate(config_of(EXPERIMENTS / f"{name}.py"))
    for name in ("mnist", "binarized_mnist", "figure_4_frey")
}
MODELS = {
    "full_normal, iwae and adam": changed(
        model__guide="full_normal",
        model__num_latents=5,
        algorithm__bound="iwae",
        algorithm__num_samples=5,
        optimizer__name="adam",
    ),
    "planar, mixture, categorical and stl": changed(
        model__guide="planar",
        model__prior="mixture",
        model__likelihood="categorical",
        algorithm__bound="stl",
    ),
    "iaf, vamp and two layers": changed(
        model__guide="iaf",
        model__prior="vamp",
        model__num_latents=5,
        model__hidden=(30, 20),
        model__likelihood="discretized_logistic",
        algorithm__bound="sgvb_a",
    ),
    "real data and dreg": changed(
        data__name="synthetic",
        data__synthetic_num_train=10_000,
        model__likelihood="gaussian_shared",
        algorithm__bound="dreg",
        algorithm__num_samples=5,
    ),
    "mcem": changed(algorithm__name="mcem"),
}
ALGORITHMS = {  # evaluated like the Frey faces
    "wake-sleep": changed(algorithm__name="wake_sleep"),
    "reweighted wake-sleep": changed(
        algorithm__name="reweighted_wake_sleep", algorithm__num_samples=5
    ),
    "full_vb": changed(algorithm__name="full_vb"),
}
CONFIGS = PAPER | MODELS | ALGORITHMS


@pytest.fixture(autouse=True)
def _without_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces MNIST, whose files may be missing, by random pixels of the same kind."""
    for name, levels, preprocess in (
        ("mnist", 256, preprocessing.drawn),
        ("binarized_mnist", 2, preprocessing.unchanged),
    ):
        pixels = np.random.default_rng(0).integers(levels, size=(300, 784)).astype(np.uint8)
        made = Dataset(name, pixels, pixels, "binary", preprocess, (28, 28), levels=None)
        entry = datasets.DATASETS[name]._replace(load=lambda options, made=made: made)
        monkeypatch.setitem(datasets.DATASETS, name, entry)


class Program(NamedTuple):
    """A compiled function, and its arguments."""

    function: jax.stages.Wrapped
    arguments: tuple[Any, ...]  # arrays, or their shapes


def shapes(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), leaf.dtype), tree)


def training(values: Values, built: Experiment) -> Program:
    """Returns the program of `loop.make_advance`."""
    batch_size = values["train.batch_size"]
    advance = loop.make_advance(built.algorithm, built.dataset.preprocess, batch_size=batch_size)
    state = jax.eval_shape(built.algorithm.init, KEY)
    stored, stop = shapes(built.dataset.train), jax.ShapeDtypeStruct((), jnp.int32)
    order = jax.eval_shape(loop.no_order, LoopKeys(KEY, KEY), stored)
    return Program(advance, (LoopKeys(KEY, KEY), stored, state, order, stop))


def sweep_training(file: str, latents: tuple[int, ...]) -> Program:
    """Returns the program of a stack of the paper's models of several sizes."""
    config = config_of(EXPERIMENTS / f"{file}.py")
    stack = stack_of(validate(with_values(config, {"model.num_latents": z})) for z in latents)
    state = jax.eval_shape(stack.join, stack.init())
    stored, stop = shapes(stack.dataset.train), jax.ShapeDtypeStruct((), jnp.int32)
    order = jax.eval_shape(loop.no_order, stack.keys, stored)
    assert isinstance(stack.program, loop.AheadOfTime)
    return Program(stack.program.advance, (shapes(stack.keys), stored, state, order, stop))


def evaluation(built: Experiment) -> Program:
    """Returns the program that `elbo.make_score` runs on each block."""
    block = jax.ShapeDtypeStruct((elbo.EVALUATION_BATCH,), jnp.int32)
    data = built.dataset.train
    stored = jax.ShapeDtypeStruct((*block.shape, data.shape[1]), data.dtype)
    bounds_of = elbo.make_bounds(built.vae, built.dataset.preprocess)
    return Program(jax.jit(bounds_of), (jax.eval_shape(built.vae.init, KEY), stored, block))


def importance_sampling(built: Experiment, proposal: str) -> Program:
    """Returns log p(x) of a batch, as in `log_likelihood.estimate_points`."""
    vae = built.vae

    def one(params: PyTree, key: Key, x: jax.Array) -> marginal.Estimate:
        stats, joint = vae.encode(params, x), vae.joint(params, x)
        fit_key, draw_key = jax.random.split(key)
        start, guide = PROPOSALS[proposal](fit_key, stats, vae.guide, joint)
        return marginal.importance_sampling(draw_key, start, guide, joint, num_samples=5000)

    x = jax.ShapeDtypeStruct((50, built.dataset.train.shape[1]), jnp.float32)
    keys = jax.ShapeDtypeStruct((50,), KEY.dtype)
    params = jax.eval_shape(vae.init, KEY)
    return Program(jax.jit(jax.vmap(one, in_axes=(None, 0, 0))), (params, keys, x))


def lowered(program: Program) -> export.Exported:
    """Lowers a program for all platforms; raises if one of them does not support an operation."""
    exported = export.export(program.function, platforms=PLATFORMS)(*program.arguments)
    assert exported.platforms == PLATFORMS
    return exported


@pytest.mark.usefixtures("standard_promotion")  # needed by optax's adam
@pytest.mark.parametrize("name", slow_but(["figure_4_frey", "full_vb"], CONFIGS))
def test_training_and_evaluation_lower_for_every_platform_and_carry_no_data(name: str):
    """The data must be an argument: a constant would be copied into every program."""
    built = build(CONFIGS[name])
    programs = [training(CONFIGS[name], built)]
    if name not in ALGORITHMS:
        programs.append(evaluation(built))
    for program in programs:
        exported = lowered(program)
        assert len(exported.mlir_module_serialized) < built.dataset.train.nbytes
        assert len(exported.in_avals) == len(jax.tree.leaves(program.arguments))


@pytest.mark.parametrize(
    ("file", "latents"),
    [("figure_4_frey", (2, 5)), pytest.param("mnist", (3, 5, 200), marks=pytest.mark.slow)],
)
def test_a_sweeps_step_lowers_for_every_platform_and_carries_no_data(
    file: str, latents: tuple[int, ...]
):
    program = sweep_training(file, latents)
    assert len(lowered(program).mlir_module_serialized) < 150_000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "proposal"),
    [
        ("mnist", "encoder"),
        ("figure_4_frey", "modes"),
        ("figure_4_frey", "encoder"),
        ("mnist", "modes"),
    ],
)
def test_importance_sampling_lowers_for_every_platform(name: str, proposal: str):
    """`modes` uses all operations of `laplace`, at each mode."""
    lowered(importance_sampling(build(PAPER[name]), proposal))


def test_the_check_of_lowering_finds_an_unsupported_operation():
    """The example is the Schur decomposition, which jax does not have for a TPU."""
    matrix = jax.ShapeDtypeStruct((3, 3), jnp.float32)
    with pytest.raises(NotImplementedError, match="schur"):
        lowered(Program(jax.jit(jax.scipy.linalg.schur), (matrix,)))


@pytest.mark.slow
def test_a_lowered_step_computes_the_step():
    values = changed(model__hidden=(8,))
    built = build(values)
    program = training(values, built)
    keys = LoopKeys(*jax.random.split(jax.random.key(0)))
    stored, stop = jnp.asarray(built.dataset.train), jnp.int32(2)
    start = built.algorithm.init(jax.random.key(1))

    def arguments() -> Any:  # new arrays for each call, because the loop reuses their memory
        return keys, stored, jax.tree.map(jnp.copy, start), loop.no_order(keys, stored), stop

    there, _, _ = lowered(program).call(*arguments())
    here, _, metrics = program.function(*arguments())
    assert math.isfinite(metrics["objective"])
    assert there.step == here.step == 2
    for one, other in zip(jax.tree.leaves(there), jax.tree.leaves(here), strict=True):
        np.testing.assert_array_equal(one, other)
