"""The speed benchmarks: their arithmetic, and the protocol of each worker."""

import importlib
import io
import itertools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.io
from programs import ROOT, python, run_python

from aevb import convolutions, data
from aevb.data import Options
from aevb.distributions import DiagNormal
from aevb.experiment import build_model
from aevb.networks import convolutional
from docs.tools import speed

BENCHMARKS = ROOT / "experiments" / "benchmarks"


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Yields a function that imports a benchmark's module; the module imports its neighbors."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield load
    for path in BENCHMARKS.glob("*.py"):
        if path.stem not in before:
            sys.modules.pop(path.stem, None)


@pytest.fixture(scope="module")
def frey_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes the Frey faces of the package in the format of their original file."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "frey_faces").mkdir()
    dataset = data.load("frey_faces", Options(split="blocked", num_valid=0))
    faces = np.concatenate([dataset.train, dataset.test])
    scipy.io.savemat(folder / "frey_faces" / "frey_rawface.mat", {"ff": faces.T})
    return folder


# The arithmetic


def test_speed_ratios_are_taken_within_each_round(program: Any):
    """A slow second round affects all contenders, so it changes the speeds and not the ratios."""
    train_speed = program("train_speed")
    rounds = {
        name: [train_speed.Epochs(seconds * slowness, 1.5, 100) for slowness in (1.0, 3.0, 1.0)]
        for name, seconds in (("ours", 1.0), ("theirs", 2.0), ("gemm", 0.5))
    }
    results = train_speed.summarize(rounds)
    assert set(results) == {"ours", "theirs"}
    assert results["theirs"]["ratio"] == {"median": 2.0, "min": 2.0, "max": 2.0}
    assert results["ours"]["of_limit"] == {"median": 0.5, "min": 0.5, "max": 0.5}
    assert results["theirs"]["of_limit"]["median"] == 0.25
    assert results["ours"]["examples_per_second"] == pytest.approx(
        {"median": 100.0, "min": 100 / 3, "max": 100.0}
    )
    assert results["ours"]["cpu_per_wall"] == 1.5


def test_the_noise_of_a_bound_is_its_standard_deviation_over_seeds(program: Any):
    over_seeds = program("train_speed").over_seeds
    assert over_seeds([-120.0, -124.0, -122.0])["standard_deviation"] == pytest.approx(2.0)
    assert over_seeds([-120.0, -124.0, -122.0])["mean"] == -122.0
    assert over_seeds([-120.0])["standard_deviation"] is None


def test_a_sweep_is_compared_by_its_time_and_by_the_bounds_of_equal_models(program: Any):
    sweep_speed = program("sweep_speed")

    def way(seconds: float, *bounds: float) -> Any:
        models = [(3, 0), (3, 1), (20, 0)]
        members = [sweep_speed.Member(*m, b) for m, b in zip(models, bounds, strict=True)]
        return sweep_speed.Way(seconds, seconds * 10, members)

    results = sweep_speed.summarize(
        {
            "sweep": [way(1.0, -150.0, -154.0, -120.0), way(2.0, -150.0, -154.0, -120.0)],
            "torch": [way(4.0, -151.0, -151.0, -119.0), way(6.0, -151.0, -151.0, -119.0)],
        }
    )
    assert results["torch"]["ratio"] == {"median": 3.5, "min": 3.0, "max": 4.0}
    assert results["torch"]["seconds"]["median"] == 5.0
    assert results["sweep"]["peak_mib"] == 20.0
    assert results["sweep"]["test_bound"] == {"3": -152.0, "20": -120.0}
    assert results["torch"]["test_bound"] == {"3": -151.0, "20": -119.0}


def test_each_round_of_a_benchmark_starts_with_another_contender(program: Any):
    orders = [program("harness").in_turn(["a", "b", "c"], number) for number in range(3)]
    assert [order[0] for order in orders] == ["a", "b", "c"]
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="Linux only")
def test_the_load_of_other_processes_is_a_number_of_cores(program: Any):
    load = program("harness").load_of_others(seconds=0.2)
    assert 0.0 <= load <= (os.cpu_count() or 1)


# The limit


def layouts(gemm: Any) -> list[Any]:
    return list(itertools.starmap(gemm.Layout, itertools.product([False, True], repeat=3)))


def test_a_step_of_the_papers_mnist_model_has_4_mflop_an_example(program: Any):
    """The number was counted by hand.

    The forward pass and the weight gradients have 814,000 products each, and the gradients of the
    inputs 422,000, because the first layer needs none.
    """
    gemm, worker = program("gemm_worker"), program("worker")
    forward = 784 * 500 + 500 * 40 + 20 * 500 + 500 * 784
    inputs = 500 * 40 + 20 * 500 + 500 * 784
    assert gemm.flops_per_example(worker.SIZES["mnist"], 20) == 2 * (2 * forward + inputs)


@pytest.mark.parametrize("num_heads", [1, 2])
def test_the_gemm_limit_computes_every_product_of_the_model_once_in_every_layout(
    program: Any, num_heads: int
):
    """The count is XLA's own, for the compiled program."""
    gemm, worker = program("gemm_worker"), program("worker")
    sizes = worker.Sizes(num_dims=24, num_hidden=16, num_heads=num_heads, num_train=40)
    M, Z = 8, 3
    for layout in layouts(gemm):
        networks = gemm.make_networks(sizes, Z, layout)
        step = jax.jit(lambda networks, x, layout=layout: gemm.step_products(networks, x, layout))
        cost = step.lower(networks, jnp.ones((M, 24))).compile().cost_analysis()
        assert cost is not None
        assert cost["flops"] == M * gemm.flops_per_example(sizes, Z), layout


@pytest.mark.slow
def test_numbers_of_the_gemm_limit_neither_grow_nor_vanish(program: Any):
    """The forward products are projections: a second step returns the x of the first."""
    gemm, worker = program("gemm_worker"), program("worker")
    sizes = worker.Sizes(num_dims=24, num_hidden=16, num_heads=2, num_train=40)
    x = jax.random.normal(jax.random.key(0), (8, 24))
    results = []
    for layout in layouts(gemm):
        networks = gemm.make_networks(sizes, 3, layout)
        once, others = gemm.step_products(networks, x, layout)
        twice, _ = gemm.step_products(networks, once, layout)
        np.testing.assert_allclose(twice, once, atol=1e-5)
        assert 0.1 < float(jnp.std(once)) < 1.0
        assert sum(leaf.size for leaf in jax.tree.leaves(others)) > 0
        results.append(once)
    for once in results[1:]:  # all layouts have the same products
        np.testing.assert_allclose(once, results[0], atol=1e-5)


def test_the_products_of_a_kind_are_those_of_the_papers_model_and_of_its_convolutions(
    program: Any,
):
    """The first number is that of gemm_worker.py; the others are counted by hand."""
    gemm, kinds, products = map(program, ("gemm_worker", "kinds", "products_worker"))

    def flops(name: str) -> int:
        kind = kinds.KINDS[name]
        return sum(layer.flops for layer in products.layers_of(kind)) // kind.batch_size

    assert flops("adam") == gemm.flops_per_example(kinds.KINDS["adam"].sizes, 20)
    inner = 49 * 288 * 64 + 2 * 3136 * 20 + 20 * 3136 + 49 * 64 * 288 + 196 * 32 * 9
    assert flops("conv") == 2 * (2 * 196 * 9 * 32 + 3 * inner)
    encoder, decoder = 200 * 200 + 2 * 200 * 50, 50 * 200 + 200 * 200 + 200 * 784
    convolutions = [(196, 32, 64), (196, 32, 128), (49, 64, 128), (49, 64, 128)]
    convolutions += [(49, 64, 128), (49, 64, 64), (196, 32, 64), (196, 32, 64), (784, 32, 64)]
    inner = sum(25 * pixels * num_in * num_out for pixels, num_in, num_out in convolutions)
    inner += 49 * 64 * 512 + 2 * 256 * 20 + 20 * 49 * 128 + 784 * 32
    assert flops("gated_conv") == 2 * (2 * 784 * 25 * 64 + 3 * inner)
    assert flops("iwae_5") == 2 * (2 * 784 * 200 + 3 * encoder + 5 * 3 * decoder)


def test_the_limit_of_a_kind_computes_each_product_of_a_layer_once_in_every_layout(program: Any):
    """The count is XLA's own, for the compiled program; the numbers do not grow."""
    gemm, products = program("gemm_worker"), program("products_worker")
    for layer in (
        products.Layer(8, 6, 4, has_input_gradient=False),
        products.Layer(8, 6, 4, num_heads=2),
        products.Layer(8, 4, 6),
    ):
        for layout in layouts(gemm):
            weights = products.make_weights(layer, layout)

            def step(weights: Any, x: Any, layer: Any = layer, layout: Any = layout) -> Any:
                return products.layer_products(layer, layout, weights, x)

            x = jax.random.normal(jax.random.key(0), (8, layer.num_in))
            distinct = [w + number for number, w in enumerate(weights)]  # else heads are shared
            cost = jax.jit(step).lower(distinct, x).compile().cost_analysis()
            assert cost is not None
            assert cost["flops"] == layer.flops, (layer, layout)
            after, _ = step(weights, x)
            assert float(jnp.linalg.norm(after)) <= float(jnp.linalg.norm(x)) * (1 + 1e-5)


class Clock:
    """A clock that replaces the module `time`, and advances only when a test sets it."""

    def __init__(self) -> None:
        self.now = self.cpu = 0.0

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.cpu

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_the_fastest_layout_of_the_gemm_limit_has_the_least_time(
    program: Any, monkeypatch: pytest.MonkeyPatch
):
    gemm, clock = program("gemm_worker"), Clock()
    monkeypatch.setattr(gemm, "time", clock)
    slow, fast = layouts(gemm)[:2]
    runs = {slow: lambda: clock.sleep(0.02), fast: lambda: clock.sleep(0.01)}
    assert gemm.fastest(runs) == fast


def test_pytorch_is_the_fastest_of_its_ways_in_each_round(program: Any):
    """The way that is named is the fastest by its median; each round has its own fastest way."""
    kinds_speed = program("kinds_speed")
    seconds = {
        "aevb": (1.0, 1.0, 1.0),
        "torch": (2.0, 2.0, 2.0),
        "torch_compile": (4.0, 1.5, 1.25),
        "products": (0.5, 0.5, 0.5),
    }
    rounds = {
        name: [kinds_speed.Epochs(each, each, 100) for each in done]
        for name, done in seconds.items()
    }
    found = kinds_speed.summarize(rounds)
    assert found["fastest_torch"]["name"] == "torch_compile"
    assert found["fastest_torch"]["ratio"] == {"median": 1.5, "min": 1.25, "max": 2.0}
    assert set(found["contenders"]) == {"aevb", "torch", "torch_compile"}
    assert found["contenders"]["torch"]["ratio"]["median"] == 2.0
    assert found["contenders"]["aevb"]["of_limit"]["median"] == 0.5
    del rounds["products"]  # as in an evaluation
    assert kinds_speed.summarize(rounds)["contenders"]["aevb"]["of_limit"] is None
    rounds["torch"][0] = kinds_speed.Epochs(1.0, 1.0, 99)
    with pytest.raises(SystemExit, match="different numbers"):
        kinds_speed.summarize(rounds)


def test_every_kind_has_the_contenders_that_fit_it(program: Any):
    kinds, kinds_speed = program("kinds"), program("kinds_speed")
    everyone = [name for name in (kinds_speed.OURS | kinds_speed.PEERS) if name != "products"]
    of = {
        name: set(kinds_speed.contenders_of(kind, everyone)) for name, kind in kinds.KINDS.items()
    }
    common = {"aevb", "flax", "torch", "torch_compile"}
    layouts = {"torch_channels_last", "torch_channels_last_compile"}
    assert of["iwae_5"] == of["adam"] == of["full_vb"] == common | {"products"}
    assert of["rmsprop"] == of["adamax"] == common | {"products", "torch_compile_step"}
    assert of["conv"] == common | layouts | {"products", "aevb_plain"}
    assert of["gated_conv"] == common | layouts | {"products"}
    assert of["conv_bound"] == of["conv_log_p"] == common | layouts


def test_the_table_of_kinds_has_a_row_for_each_and_is_empty_without_results():
    ratio = {"median": 1.6, "min": 1.5, "max": 1.7}
    rate = {"median": 12345.6, "min": 1.0, "max": 2.0}

    def contender(bound: float, of_limit: Any = ratio) -> dict[str, Any]:
        return {
            "examples_per_second": rate, "cpu_per_wall": 1.9, "ratio": ratio,
            "of_limit": of_limit, "test_bound": bound,
        }  # fmt: skip

    def kind(title: str, contenders: dict[str, Any], **more: Any) -> dict[str, Any]:
        noise = {"standard_deviation": 1.25}
        return {"title": title, "contenders": contenders, "bound_noise": noise, **more}

    kinds = {
        "conv": kind(
            "convolutions",
            {"aevb": contender(-101.0), "aevb_plain": contender(-101.5), "torch": contender(-99.0)},
            fastest_torch={"name": "torch", "ratio": ratio},
        ),
        "conv_log_p": kind("log p(x)", {"aevb": contender(-98.0, None)}),
    }
    _, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in speed.kinds_table(kinds).splitlines()
    ]
    assert rows == [
        ["convolutions", "12,346", "", "1.60", "PyTorch", "1.60", "1.90", "-101.5 to -99.0",
         "1.2"],
        ["log p(x)", "12,346", "", "", "", "", "1.90", "-98.0 to -98.0", "1.2"],
    ]  # fmt: skip
    conv = speed.convolutions_table(kinds).splitlines()[2:]
    assert [line.split(" | ")[2] for line in conv] == ["", "1.60", "1.60"]
    assert speed.kinds_table({}) == speed.convolutions_table({}) == "not run yet"


# The workers


FLAX_LAYERS = {  # in the order of `aevb_layers`
    "conv": {
        "encoder": ("Conv_0", "Conv_1", "Dense_0", "Dense_1"),
        "decoder": ("Dense_0", "ConvTranspose_0", "ConvTranspose_1"),
    },
    "gated_conv": {
        "encoder": (*map("Conv_{}".format, range(5)), "Dense_0", "Dense_1", "Dense_2"),
        "decoder": ("Dense_0", "bias", *map("ConvTranspose_{}".format, range(5)), "Conv_0"),
    },
}


def aevb_layers(network: dict[str, Any]) -> list[Any]:
    """Returns the layers of a network: the hidden ones, the mean's and the others."""
    last = [name for name in ("mean", "mean_logits", "logits", "log_var") if name in network]
    return [network[name] for name in (*sorted(network.keys() - set(last)), *last)]


@pytest.mark.usefixtures("standard_promotion")  # optax's adam leans on it
@pytest.mark.parametrize(
    "name",
    [
        "iwae_5",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("conv", "gated_conv", "adam_frey")
        ),
    ],
)
def test_the_flax_contender_of_a_kind_has_aevbs_bound(program: Any, name: str, tmp_path: Path):
    """Both have the same parameters and noise; aevb's bound is of one datapoint and sample."""
    kinds, flax_worker, aevb_worker = map(
        program, ("kinds", "flax_kinds_worker", "aevb_kinds_worker")
    )
    kind = kinds.KINDS[name]
    D, is_mnist = kind.sizes.num_dims, kind.data == "mnist"
    shape = (28, 28) if is_mnist else (28, 20)
    description = data.Description(
        kind.data, "binary" if is_mnist else "grey", D, kind.sizes.num_train, shape,
        None if is_mnist else 256.0, False, lambda key, x: x, shape,
    )  # fmt: skip
    vae, _ = build_model(aevb_worker.config_of(kind, tmp_path), description)
    params = vae.init(jax.random.key(0))
    theirs = {
        part: dict(
            zip(
                FLAX_LAYERS.get(name, {}).get(part) or map("Dense_{}".format, range(9)),
                aevb_layers(params[part]),
                strict=False,
            )
        )
        for part in ("encoder", "decoder")
    }
    model, key, (M, K) = flax_worker.VAE(kind), jax.random.key(1), (3, kind.num_samples)
    x = jax.random.bernoulli(jax.random.key(2), 0.5, (M, D)).astype(jnp.float32)
    shape = (M, kind.num_latents) if K == 1 else (M, K, kind.num_latents)
    noise = jax.random.normal(key, shape).reshape(M, K, -1)

    def bound(x: Any, noise: Any) -> Any:
        stats, joint = vae.encode(params, x), vae.joint(params, x)
        z = stats.mean + jnp.exp(0.5 * stats.log_var) * noise
        log_lik = jax.vmap(joint.log_lik)(z)
        if kind.bound == "sgvb_b":
            return log_lik[0] - stats.kl_to_standard_normal()
        log_w = log_lik + jax.vmap(joint.log_prior)(z) - jax.vmap(stats.log_prob)(z)
        return jax.nn.logsumexp(log_w) - np.log(K)

    np.testing.assert_allclose(
        flax_worker.bounds(model, theirs, x, key), jax.vmap(bound)(x, noise), rtol=1e-5
    )


@pytest.mark.slow
@jax.numpy_rank_promotion("allow")  # it is written like a user's program
def test_the_flax_contender_of_full_vb_adds_the_kl_of_the_decoders_weights(program: Any):
    kinds, flax_worker = program("kinds"), program("flax_kinds_worker")
    kind = kinds.KINDS["full_vb"]._replace(hidden=(5,), num_latents=2)
    model, key = flax_worker.VAE(kind), jax.random.key(1)
    x = jnp.ones((3, 784))
    params = model.init(jax.random.key(0), x, key)["params"]
    pairs = [
        (layer[name].ravel(), layer[f"{name}_log_var"].ravel())
        for layer in params["decoder"].values()
        for name in ("kernel", "bias")
    ]
    assert len(pairs) == 4
    expected = sum(DiagNormal(*pair).kl_to_standard_normal() for pair in pairs)
    np.testing.assert_allclose(flax_worker.kl_of_weights(params["decoder"]), expected, rtol=1e-5)
    z_key, weights_key = jax.random.split(key)
    bounds = flax_worker.bounds(model, params, x, z_key, weights=weights_key)
    np.testing.assert_allclose(
        flax_worker.objective(model, params, x, key),
        jnp.mean(bounds) - expected / 50_000,
        rtol=1e-5,
    )
    assert not np.allclose(bounds, flax_worker.bounds(model, params, x, z_key))  # at the means


def test_the_plain_convolutions_of_the_benchmark_are_the_packages(
    program: Any, monkeypatch: pytest.MonkeyPatch
):
    for name in ("convolve", "convolve_transposed"):  # so that they are restored
        monkeypatch.setattr(convolutional, name, getattr(convolutional, name))
    program("aevb_kinds_worker").use_plain_convolutions()
    x, kernel = (
        jax.random.normal(jax.random.key(seed), shape)
        for seed, shape in enumerate(((7, 6, 2), (3, 3, 2, 4)))
    )
    for plain, ours in (
        (convolutional.convolve, convolutions.convolve),
        (convolutional.convolve_transposed, convolutions.convolve_transposed),
    ):
        assert plain is not ours
        np.testing.assert_allclose(plain(x, kernel, stride=2), ours(x, kernel, stride=2), rtol=1e-5)


@pytest.mark.slow
def test_the_flax_contender_has_the_bound_of_the_same_model(program: Any, frey_folder: Path):
    """Its bound at equal parameters and noise is compared with aevb's likelihood and KL."""
    flax_worker, raw_data, worker = map(program, ("flax_worker", "raw_data", "worker"))
    from aevb.likelihoods import gaussian_unit_mean

    x = jnp.asarray(raw_data.load(frey_folder, "frey").test[:5])
    model, key = flax_worker.VAE(worker.SIZES["frey"], 3), jax.random.key(1)
    params = model.init(jax.random.key(0), x, key)["params"]
    drawn = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)])
    assert float(jnp.std(drawn)) == pytest.approx(0.1, rel=0.01)
    mean, log_var, heads = model.apply({"params": params}, x, key)
    parameters = {"mean_logits": heads[0], "log_var": heads[1]}
    log_lik = jax.vmap(gaussian_unit_mean.log_prob)(parameters, x)
    kl = jax.vmap(lambda m, v: DiagNormal(m, v).kl_to_standard_normal())(mean, log_var)
    np.testing.assert_allclose(
        flax_worker.mean_bound(model, params, x, key), jnp.mean(log_lik - kl), rtol=1e-4
    )


def test_raw_data_of_the_benchmarks_are_those_of_the_package(program: Any, frey_folder: Path):
    arrays = program("raw_data").load(frey_folder, "frey")
    dataset = data.load("frey_faces", Options(split="blocked", num_valid=0))
    np.testing.assert_array_equal(arrays.train, dataset.train.astype(np.float32) / 256)
    np.testing.assert_array_equal(arrays.test, dataset.test.astype(np.float32) / 256)


def test_a_benchmark_worker_replies_line_by_line_and_refuses_an_unknown_request(
    program: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    epochs, clock, worker = [], Clock(), program("worker")

    def train_epoch() -> int:
        epochs.append(1)
        clock.sleep(0.5)
        clock.cpu += 0.25
        return 100

    monkeypatch.setattr(worker, "time", clock)
    monkeypatch.setattr(sys, "stdin", io.StringIO("bound\nepoch\nepochs\n"))
    with pytest.raises(ValueError, match="'epochs'"):
        worker.serve_training(["numpy"], train_epoch, lambda: -1.5, threads=2)
    ready, bound, epoch = map(json.loads, capsys.readouterr().out.splitlines())
    versions = {"numpy": np.__version__}
    assert ready == {"ready": True, "versions": versions, "threads": 2, "device": "cpu"}
    assert bound == {"test_bound": -1.5}
    assert epoch["examples"] == 100
    assert epoch["seconds"] == 0.5
    assert epoch["cpu_seconds"] == 0.25
    assert len(epochs) == 2  # including the warm-up


# The programs


@pytest.mark.slow
def test_the_speed_benchmark_runs_its_contenders_in_turn(frey_folder: Path, tmp_path: Path):
    """The workers of aevb's environment answer, and learn something in seven epochs."""
    output = tmp_path / "speed.json"
    python(
        BENCHMARKS / "train_speed.py",
        f"--data-dir={frey_folder}",
        "--data=frey",
        "--rounds=2",
        "--epochs-per-round=3",
        "--contenders=aevb,flax",
        "--noise-seeds=0",
        f"--output={output}",
    )
    report = json.loads(output.read_text())
    assert str(tmp_path) not in report["command"]
    results, limit = report["contenders"], report["limit"]
    assert results["aevb"]["ratio"] == {"median": 1.0, "min": 1.0, "max": 1.0}
    for result in results.values():
        assert 400 < result["test_bound"] < 800  # negative before training
        assert result["peak_mib"] > 50 or not Path("/proc/self/status").exists()
        assert result["versions"]["jax"] == jax.__version__
        assert [done["examples"] for done in result["rounds"]] == [4500, 4500]
        pairs = zip(limit["rounds"], result["rounds"], strict=True)
        assert result["of_limit"]["median"] == pytest.approx(
            np.median([a["seconds"] / b["seconds"] for a, b in pairs])
        )
    assert [done["examples"] for done in limit["rounds"]] == [4500, 4500]
    assert limit["gflop_per_second"] > 0
    assert report["bound_noise"]["bounds"] == [results["aevb"]["test_bound"]]


def test_a_contender_without_the_requested_model_is_refused(tmp_path: Path):
    done = run_python(
        BENCHMARKS / "train_speed.py",
        f"--data-dir={tmp_path}",
        "--data=frey",
        "--contenders=aevb,pythae",
    )
    assert done.returncode == 2
    assert "pythae" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_the_benchmark_of_the_first_epoch_measures_its_time(tmp_path: Path):
    output = tmp_path / "first.json"
    python(
        "experiments/benchmarks/first_epoch.py",
        "--experiments=figure_4_frey",
        "--rounds=1",
        f"--output={output}",
    )
    seconds = json.loads(output.read_text())["seconds"]["figure_4_frey"]
    assert 0 < seconds["warm"]["median"] < seconds["cold"]["median"]


@pytest.mark.slow
def test_the_contender_of_the_benchmark_of_log_p_estimates_it(tmp_path: Path):
    """With a decoder that ignores z, p(x) is known: every pixel is 1 with probability 1/2."""
    sizes = {
        "encoder/hidden_0": (6, 4),
        "encoder/mean": (4, 2),
        "encoder/log_var": (4, 2),
        "decoder/hidden_0": (2, 4),
        "decoder/logits": (4, 6),
    }
    arrays: dict[str, Any] = {"images": np.eye(3, 6, dtype=np.float32)}
    for name, (fan_in, fan_out) in sizes.items():
        arrays[f"{name}/kernel"] = np.zeros((fan_in, fan_out), np.float32)
        arrays[f"{name}/bias"] = np.zeros(fan_out, np.float32)
    np.savez(tmp_path / "model.npz", **arrays)
    out = python(
        "experiments/benchmarks/aevb_marginal_worker.py",
        tmp_path / "model.npz",
        input="3 1200\n",
    )
    ready, answer = map(json.loads, out.splitlines())
    assert ready["ready"]
    np.testing.assert_allclose(answer["log_p"], 6 * np.log(0.5), rtol=1e-5)
    assert answer["seconds"] > 0


def test_the_sweep_benchmark_times_a_sweep_and_reads_its_members(tmp_path: Path, program: Any):
    """A substitute for run.py makes a dataset unnecessary."""
    sweep_speed = program("sweep_speed")
    stand_in = tmp_path / "run.py"
    stand_in.write_text(
        "import json, pathlib, sys\n"
        "flags = dict(argument.split('=', 1) for argument in sys.argv[1:])\n"
        "folder = pathlib.Path(flags['--workdir'])\n"
        "folder.mkdir()\n"
        "latents = int(flags['--config.model.num_latents'])\n"
        "config = {'model.num_latents': latents, 'seed': int(flags['--config.seed'])}\n"
        "(folder / 'config.json').write_text(json.dumps(config))\n"
        "(folder / 'summary.json').write_text(json.dumps({'test_bound': -100.0 - latents}))\n"
        "memory = bytearray(50 * 2**20)\n"
    )
    sweep_speed.RUN = stand_in
    args = sweep_speed.argparse.Namespace(
        data_dir=tmp_path, num_examples=100, latents=[5, 3], seeds=[0, 1], extra=[]
    )
    way = sweep_speed.one_by_one(args, tmp_path)
    sweep_speed.check_members("one_by_one", way, args)
    assert [member[:2] for member in way.members] == [(3, 0), (3, 1), (5, 0), (5, 1)]
    assert [member.test_bound for member in way.members] == [-103.0, -103.0, -105.0, -105.0]
    assert way.seconds > 0
    assert way.peak_mib > 50
    args.seeds = [0]
    with pytest.raises(SystemExit, match="one_by_one trained"):
        sweep_speed.check_members("one_by_one", way, args)


def test_a_failed_process_of_a_benchmark_is_reported_by_its_last_line(tmp_path: Path, program: Any):
    command = [sys.executable, "-c", "import sys; sys.exit('first\\nlast')"]
    with pytest.raises(SystemExit, match="ended with 1: last"):
        program("sweep_speed").run(command, tmp_path)


def test_every_benchmark_of_bench_exists_and_takes_its_flags(program: Any, tmp_path: Path):
    """The flags are those of a quick run; programs with a `parse_args` parse them here."""
    bench = program("bench")
    for on_cpu in (True, False):
        outputs = []
        for benchmark in (
            each for name in bench.BY_NAME for each in bench.benchmarks(name, on_cpu)
        ):
            command = bench.command(benchmark, tmp_path, tmp_path, on_cpu=on_cpu, is_quick=True)
            assert Path(command[1]).exists()
            outputs.append(benchmark.output)
            if benchmark.script in ("train_speed", "sweep_speed", "kinds_speed"):
                module = program(benchmark.script)
                argv = [*command[1:], f"--bench-python={sys.executable}"]
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(sys, "argv", argv)
                    args = module.parse_args()
                assert args.output == tmp_path / benchmark.output
        assert len(set(outputs)) == len(outputs) > 5


def test_a_benchmark_report_has_the_command_that_repeats_it_without_folders(
    program: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    harness = program("harness")
    flags = [f"--data-dir={tmp_path}", f"--output={tmp_path / 'a.json'}", "--kinds=b", "--rounds=2"]
    monkeypatch.setattr(sys, "argv", [f"{tmp_path}/some_speed.py", *flags])
    parser = harness.argument_parser("", rounds=5, needs_data=True)
    harness.add_choices(parser, "--kinds", "ab")
    harness.write_report(parser.parse_args(), None, speed=1.0)
    report = json.loads((tmp_path / "a.json").read_text())
    shown = "python experiments/benchmarks/some_speed.py --rounds=2 --data-dir=DATA --kinds=b"
    assert report["command"] == shown
    assert report["speed"] == 1.0
    with pytest.raises(SystemExit):
        parser.parse_args([*flags, "--kinds=c"])


# Members of a stack


@pytest.mark.slow
def test_the_members_benchmark_times_members_and_names_a_missing_accelerator(
    frey_folder: Path, tmp_path: Path
):
    output = tmp_path / "members.json"
    flags = [f"--data-dir={frey_folder}", "--data=frey", "--latent-dim=2", f"--output={output}"]
    run_python(BENCHMARKS / "members_speed.py", *flags, "--members=1,3", "--steps=2")
    report = json.loads(output.read_text())
    assert [row["members"] for row in report["rows"]] == [1, 3]
    assert all(row["examples_per_second"] > 0 for row in report["rows"])
    assert report["platform"] in ("gpu", "tpu") or report["not_measured"] == ["gpu"]


# The Gaussian mixture


@pytest.mark.slow
def test_the_mixture_benchmark_fits_in_turn_with_equal_bounds(tmp_path: Path):
    output = tmp_path / "mixture.json"
    sizes = ("--points=2000", "--dims=2", "--components=3", "--restarts=3", "--sweeps=30")
    contenders = "--contenders=aevb_float32,aevb_float64,sklearn_one_thread"
    script = BENCHMARKS / "mixture_speed.py"
    python(script, *sizes, contenders, "--rounds=1", f"--output={output}")
    report = json.loads(output.read_text())
    results = report["contenders"]
    assert results["aevb_float32"]["ratio"]["median"] == 1.0
    scores = [result["score"]["median"] for result in results.values()]
    assert max(scores) - min(scores) < 0.02
    assert report["sizes"]["points"] == 2000


def test_the_situations_have_their_number_of_clusters_apart_as_said(program: Any):
    situations = program("mixture_situations")
    for situation in situations.SITUATIONS.values():
        x, names = situation.draw(np.random.default_rng(0))
        assert len(x) == len(names)
        assert len(np.unique(names)) == situation.num_clusters
    x, names = situations.clusters(20, 50, 2, 10.0)(np.random.default_rng(1))
    means = np.stack([np.mean(x[names == name], axis=0) for name in range(20)])
    distances = np.linalg.norm(means[:, None] - means[None], axis=2) + 100.0 * np.eye(20)
    assert 9.0 < np.min(distances) < 15.0


@pytest.mark.slow
def test_the_benchmark_of_counts_finds_clear_clusters(tmp_path: Path):
    output = tmp_path / "counts.json"
    flags = ("--sets=1", "--situations=three_few", f"--output={output}")
    python(BENCHMARKS / "mixture_counts.py", *flags)
    situation = json.loads(output.read_text())["situations"]["three_few"]
    assert situation["num_clusters"] == 3
    assert situation["found"]["aevb"] == [3]
    assert situation["right"]["aevb"] == 1


@pytest.mark.slow
def test_the_sampling_benchmark_has_chains_and_fits_that_agree(tmp_path: Path):
    output = tmp_path / "sampling.json"
    python(BENCHMARKS / "sampling_speed.py", "--rounds=2", "--draws=500", f"--output={output}")
    problems = json.loads(output.read_text())["problems"]
    assert all(problem["worst_r_hat"] < 1.02 for problem in problems.values())
    fits = problems["logistic regression"]["fits"]
    assert fits["normal"]["mean_off_in_std"] < 0.1
    assert fits["mean field"]["std_ratio"]["least"] < 0.7 < fits["normal"]["std_ratio"]["least"]
    normal = problems["normal-gamma"]["fits"]["mean field"]
    assert normal["mean_off_in_std"] < 0.1


# The page of a run


@pytest.mark.browser
def test_a_drag_is_measured_in_the_browser(tmp_path: Path):
    output = tmp_path / "explorer.json"
    flags = ("--rounds=1", "--moves=10", f"--output={output}")
    python(BENCHMARKS / "explorer_speed.py", *flags)
    for page in json.loads(output.read_text())["pages"].values():
        assert page["moves"] >= 10
        assert 0 < page["handler_ms"]["median"] < page["painted_ms"]["median"]
