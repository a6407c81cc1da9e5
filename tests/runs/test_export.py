"""Exported models, read without this package, are those of the run."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from configs import changed
from jax import export as jax_export
from programs import Done, program, python_without, run_program
from safetensors.numpy import load_file

import aevb
from aevb.data import units
from aevb.errors import UserError
from aevb.experiment import build_model
from aevb.runs import export
from aevb.runs.in_memory import InMemory
from aevb.runs.trained import TrainedRun, dataset_of, model_of

RANDOM = np.random.default_rng(0)
LEVELS = RANDOM.integers(0, 256, (40, 6, 5), dtype=np.uint8)
TABLE = RANDOM.normal(size=(40, 4)) * [1.0, 1e3, 1e-2, 1.0] + [0.0, 5e3, 7.0, -1.0]
COUNTS = RANDOM.poisson(3.0, size=(40, 5)).astype(np.int32)
# Data, and the settings of a model of them.
CASES: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
    "standardized": (TABLE, {"model__likelihood": "gaussian"}),
    "binarized": (LEVELS, {"data__binarization": "dynamic", "model__likelihood": "bernoulli"}),
    "dequantized": (
        LEVELS,
        {"data__dequantize": True, "model__likelihood": "gaussian", "model__guide": "full_normal"},
    ),
    "convolutions": (
        LEVELS,
        {"model__network": "conv", "model__hidden": (2, 3)},
    ),
    "counts": (
        COUNTS,
        {"data__kind": "counts", "model__guide": "iaf", "algorithm__bound": "sgvb_a"},
    ),
}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("convolutions", "counts")]


def untrained(x: np.ndarray, **settings: Any) -> TrainedRun:
    """Returns a model of data at its initial parameters, which is as good as a trained one here."""
    own = {"model__likelihood": "", "model__hidden": (8,), "data__binarization": "none"}
    config = changed(**own | {"data__name": "array:x", "train__batch_size": 10} | settings)
    dataset = dataset_of(x, config)
    vae, algorithm = build_model(config, dataset.description)
    params = algorithm.vae_params(algorithm.init(jax.random.key(1)).params)
    summary = {"test_bound": -1.5, "seconds": 1.0, "num_examples": 30}
    history = [{"examples": 10 * (n + 1), "valid_bound": n - 2.5} for n in range(3)]
    origin: Any = InMemory
    data = dataset.description
    return TrainedRun(model_of(vae, params, data), data, config, summary, history, 2, origin)


def load(folder: Path, name: str) -> jax_export.Exported:
    return jax_export.deserialize(bytearray((folder / f"{name}.stablehlo").read_bytes()))


@pytest.mark.parametrize("case", ["standardized", "binarized", "dequantized", *SLOW])
def test_exported_programs_compute_what_the_run_does_for_any_number_of_datapoints(
    case: str, tmp_path: Path
):
    stored, settings = CASES[case]
    run = untrained(stored, **settings)
    folder = run.export(tmp_path / "exported")
    encoder, decoder = (load(folder, name) for name in ("encoder", "decoder"))
    x, keys = jnp.asarray(stored[:7], jnp.float32), jax.random.split(jax.random.key(7), 7)
    noise = jax.vmap(lambda key: noise_of(run, key))(keys) if units.is_random(run.data) else ()
    z = jax.random.normal(jax.random.key(0), (7, run.model.vae.num_latents))
    expected = export.named_arrays(jax.jit(jax.vmap(run.encode))(x, keys))
    means = jax.jit(jax.vmap(run.decode))(z)
    assert means.shape == stored[:7].shape
    for number in (1, 7):
        found: Any = encoder.call(x[:number], *(u[:number] for u in noise))
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values[:number], rtol=1e-5, atol=1e-6)
        mean = decoder.call(z[:number])["mean"]
        np.testing.assert_allclose(mean, means[:number], rtol=1e-5, atol=1e-5)


def noise_of(run: TrainedRun, key: jax.Array) -> tuple[jax.Array]:
    """Returns the noise that a run's preprocessing draws from a key, in the shape of the data."""
    return (run.data.preprocess.draw_noise(key, (run.data.num_dims,)).reshape(run.data.shape),)  # pyright: ignore[reportFunctionMemberAccess]


def test_the_noise_of_a_binarization_is_compared_with_the_level_and_gives_the_same_again(
    tmp_path: Path,
):
    run = untrained(LEVELS, **CASES["binarized"][1])
    encode = load(run.export(tmp_path / "exported"), "encoder").call
    x, noise = jnp.asarray(LEVELS[:3], jnp.float32), jnp.full((3, 6, 5), 0.5)
    binary = (LEVELS[:3].reshape(3, -1) > 127.5).astype(np.float32)
    first, again = encode(x, noise)["mean"], encode(x, noise)["mean"]
    np.testing.assert_array_equal(first, again)
    np.testing.assert_allclose(
        first, jax.vmap(run.model.encode)(jnp.asarray(binary)).mean, atol=1e-6
    )
    assert not np.allclose(first, encode(x, jnp.full((3, 6, 5), 0.1))["mean"], atol=1e-6)


def test_the_card_describes_what_the_programs_take_and_return(tmp_path: Path):
    run = untrained(LEVELS, **CASES["dequantized"][1])
    folder = run.export(tmp_path / "exported")
    text = (folder / "model.json").read_text()
    card = json.loads(text)
    for name in ("encoder", "decoder"):
        made, about = load(folder, name), card["programs"][name]
        assert made.platforms == ("cpu", "cuda", "tpu") == tuple(about["platforms"])
        assert made.calling_convention_version == about["calling_convention_version"]
        assert [f"float32[{sizes(entry)}]" for entry in about["inputs"]] == [
            aval.str_short() for aval in made.in_avals
        ]
        outputs = jax.tree.unflatten(made.out_tree, made.out_avals)
        assert {key: aval.str_short() for key, aval in outputs.items()} == {
            key: f"{entry['dtype']}[{sizes(entry)}]" for key, entry in about["outputs"].items()
        }
    assert [entry["name"] for entry in card["programs"]["encoder"]["inputs"]] == ["x", "noise"]
    assert card["versions"]["jax"] == jax.__version__
    assert card["versions"]["aevb"] == aevb.__version__
    assert card["config"]["model.guide"] == "full_normal"
    assert card["summary"] == {"test_bound": -1.5, "num_examples": 30}
    assert (card["step"], card["evaluation"]["valid_bound"]) == (2, -1.5)  # neither first nor last
    assert (card["data"]["kind"], card["data"]["shape"]) == ("grey", [6, 5])


def sizes(entry: Mapping[str, Any]) -> str:
    return ",".join(map(str, entry["shape"]))


def test_the_card_says_how_z_is_drawn_from_the_statistics():
    for case in ("standardized", "dequantized"):
        stored, settings = CASES[case]
        run = untrained(stored, **settings)
        guide = run.config["model.guide"]
        q = run.encode(stored[0].astype(np.float32), jax.random.key(0))
        key = jax.random.key(5)
        e = np.asarray(jax.random.normal(key, q.mean.shape), np.float64)
        given = {
            **{name: np.asarray(value) for name, value in export.named_arrays(q).items()},
            "e": e,
        }
        if guide == "full_normal":
            num_latents = len(e)
            given["L"] = np.diag(np.exp(given["log_diag"]))
            given["L"][np.tril_indices(num_latents, -1)] = given["below_diag"]
            assert "L e" in export.DRAWS[guide]
            z = given["mean"] + given["L"] @ e
        else:
            [formula] = re.findall(r"z = (.*), with", export.DRAWS[guide])
            z = eval(formula, {"exp": np.exp, **given})
        np.testing.assert_allclose(z, run.model.vae.guide.sample(key, q), rtol=1e-5)


def test_the_parameters_make_the_decoder_in_numpy(tmp_path: Path):
    run = untrained(TABLE, **CASES["standardized"][1])
    folder = run.export(tmp_path / "exported")
    weights = load_file(folder / "parameters.safetensors")
    standardization = json.loads((folder / "model.json").read_text())["data"]["standardization"]
    z = RANDOM.normal(size=(3, run.model.vae.num_latents)).astype(np.float32)
    name = "decoder.hidden_0"
    hidden = np.tanh(z @ weights[f"{name}.kernel"] + weights[f"{name}.bias"])
    mean = hidden @ weights["decoder.mean.kernel"] + weights["decoder.mean.bias"]
    expected = mean * standardization["scale"] + standardization["mean"]
    np.testing.assert_allclose(load(folder, "decoder").call(z)["mean"], expected, rtol=1e-5)
    assert sum(value.size for value in weights.values()) == sum(
        leaf.size for leaf in jax.tree.leaves(run.model.params)
    )


def test_a_model_without_an_encoder_exports_its_decoder_alone(tmp_path: Path):
    run = untrained(TABLE, model__likelihood="gaussian", algorithm__name="mcem")
    folder = run.export(tmp_path / "exported")
    assert sorted(file.name for file in folder.iterdir()) == [
        "decoder.stablehlo", "model.json", "parameters.safetensors"
    ]  # fmt: skip
    card = json.loads((folder / "model.json").read_text())
    assert card["latents"]["guide"] is None
    assert list(card["programs"]) == ["decoder"]


# Refusals


def test_a_folder_with_files_is_refused_and_stays_as_it_is(tmp_path: Path):
    run = untrained(TABLE)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds files; name a new folder"):
        run.export(tmp_path)
    with pytest.raises(UserError, match=r"notes\.txt is a file; name a new folder"):
        run.export(tmp_path / "notes.txt")
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_a_failed_write_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "write_json", full)
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\)"):
        untrained(TABLE).export(tmp_path / "exported")
    assert not list((tmp_path / "exported").iterdir())


def test_a_preprocessing_of_the_users_own_is_refused_and_the_way_out_is_named(tmp_path: Path):
    run = untrained(TABLE)
    model, data = run.model, run.data._replace(preprocess=lambda key, x: x)
    with pytest.raises(UserError, match=r"preprocessing of its own.*unchanged.*model\.encode"):
        export.export(tmp_path / "exported", model.vae, model.params, data, run.config, {})
    assert not (tmp_path / "exported").exists()


def test_a_decoder_that_calls_python_is_refused_in_one_line(tmp_path: Path):
    run = untrained(TABLE)
    vae = run.model.vae

    def mean(params: Any, z: jax.Array) -> jax.Array:
        return jax.pure_callback(np.sin, vae.mean(params, z), vae.mean(params, z))

    own = vae._replace(mean=mean)
    with pytest.raises(UserError) as refusal:
        export.export(tmp_path / "exported", own, run.model.params, run.data, run.config, {})
    assert "the decoder cannot be exported" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "exported").exists()


# The command, and programs that do not have this package


def command(*arguments: object) -> Done:
    return run_program("-m", "aevb", "export", *arguments)


def test_the_command_exports_a_finished_run(undisturbed: Path, tmp_path: Path):
    printed = program("-m", "aevb", "export", undisturbed, f"--output={tmp_path / 'exported'}")
    names = ["decoder.stablehlo", "encoder.stablehlo", "model.json", "parameters.safetensors"]
    assert printed.splitlines() == [str(tmp_path / "exported" / name) for name in names]
    run = aevb.load_run(undisturbed)
    x = jnp.asarray(run.dataset.test[:3])
    found = load(tmp_path / "exported", "encoder").call(x)
    np.testing.assert_allclose(found["mean"], jax.vmap(run.encode)(x).mean, rtol=1e-5, atol=1e-6)
    card = json.loads((tmp_path / "exported" / "model.json").read_text())
    assert card["summary"]["test_bound"] == run.summary["test_bound"]
    assert card["num_examples"] == run.summary["num_examples"]
    for name in names:  # no file names the machine's folders
        assert b"/aevb/" not in (tmp_path / "exported" / name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{tmp}", "--output={tmp}/exported"], "it has no config.json"),
        (["{run}"], "--output"),
        (["{run}", "--output={run}"], "holds files; name a new folder"),
        (["{run}", "--output={tmp}/exported", "--step=7"], "step is 7"),
    ],
)
def test_a_mistake_is_refused_in_one_line(
    arguments: list[str], words: str, undisturbed: Path, tmp_path: Path
):
    done = command(*(text.format(tmp=tmp_path, run=undisturbed) for text in arguments))
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_parameters_are_read_with_safetensors_and_numpy_alone(tmp_path: Path):
    run = untrained(TABLE)
    run.export(tmp_path / "exported")
    code = """
from safetensors.numpy import load_file
for name, value in load_file("exported/parameters.safetensors").items():
    print(name, *value.shape)
"""
    found = python_without({"aevb", "jax", "jaxlib", "flax"}, code, tmp_path)
    arrays = export.named_arrays(run.model.params)
    assert sorted(found.splitlines()) == sorted(
        " ".join(map(str, (name, *value.shape))) for name, value in arrays.items()
    )
