"""Scores and predicts the last fifth of the Frey film, given what came before it.

python -m experiments.paper.film [--seeds=3] [--quick] [--runs=FOLDER] [--output=FILE]

It trains state-space models of the film and VAEs of single frames with the same decoder and
likelihood, for as many steps with as many frames each; runs/film is resumed if it was stopped. Of
each run the state with the best validation bound is scored once on the last fifth of the film. It
writes experiments/results/film.json, from which `python -m docs.tools` makes the tables and the
figure of docs/results.md, and docs/film.gif, a sampled continuation of the film. --quick checks in
a minute that everything works, and draws no film.

log p of a frame given those before it is estimated by the particle filter of a state-space model,
which starts WARM_UP frames before the last fifth: the sum over all its frames is a stochastic lower
bound on their log p. The frames of a VAE are independent; importance sampling from the encoder is a
stochastic lower bound too. The baselines are exact densities.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jax import Array

from aevb import data, runs
from aevb.cli.common import Parser, reporting_mistakes
from aevb.config import Values, validate, with_values
from aevb.data import Options
from aevb.evaluation import log_likelihood
from aevb.evaluation.log_likelihood import Points
from aevb.experiments import frey_film
from aevb.marginal import ESTIMATORS
from aevb.runs.trained import Model, load_run
from aevb.runtime import provenance
from aevb.sequences import Filtered, Markov, Steps
from aevb.storage import metrics_log

from .studies import ROOT

OUTPUT = ROOT / "experiments" / "results" / "film.json"
PICTURE = ROOT / "docs" / "film.gif"
OF_RUN = ("best_valid_bound", "best_num_examples", "num_examples", "seconds")
HORIZONS = (1, 2, 5, 10, 20, 50)  # frames ahead
WARM_UP = 64  # frames that are filtered before the first that is scored
SHOWN = 60  # frames of the animation
SCALE = 4  # pixels of the animation for one of a frame
MILLISECONDS = 120  # of a frame


class Scale(NamedTuple):
    """The numbers of samples of the measurements."""

    num_samples: int = 1000  # K, particles of a filter or importance samples of a frame
    few: int = 100  # K of a second estimate, which shows how much more samples would add
    num_paths: int = 100  # particles whose paths are averaged for a prediction


QUICK = Scale(20, 10, 5)
SINGLE = {"data.window": 0, "model.dynamics": ""}
MODELS: dict[str, dict[str, Any]] = {
    "neural": {"model.dynamics": "neural"},
    "linear": {"model.dynamics": "linear"},
    "frames": SINGLE,
    "frames_random": {**SINGLE, "data.split": "random"},
}


def values_of(name: str, seed: int, num_examples: int) -> Values:
    """Returns the config of a model; those of frames see the frames of as many windows."""
    config = frey_film.get_config()
    changes = {"seed": seed, "train.num_examples": num_examples, **MODELS[name]}
    if name.startswith("frames"):
        for field in ("train.num_examples", "train.batch_size", "train.eval_every"):
            given = changes.get(field, config.train[field.removeprefix("train.")])
            changes[field] = config.data.window * given
    return validate(with_values(config, changes))


def film() -> tuple[np.ndarray, int]:
    """Returns the frames [N, D] in [0, 1), and the number of the first of the last fifth."""
    dataset = data.load("frey_faces", Options(split="blocked"))
    frames = np.concatenate([*dataset.splits.values()])
    return frames.astype(np.float32) / 256.0, len(frames) - len(dataset.test)


# State-space models


def steps_of(model: Model, x: np.ndarray, first: int, num_frames: int) -> Steps:
    """Returns the guide's statistics at the frames from `first` on, each from its own past.

    They are those of the last frame of a window, as in training.
    """
    at = np.arange(first, len(x))[:, None] + np.arange(1 - num_frames, 1)
    windows = jnp.asarray(x[at].reshape(len(at), -1))

    def last(window: Array) -> Any:
        return jax.tree.map(lambda leaf: leaf[-1], model.encode(window).each)

    whole = model.encode(windows[0])
    each = jax.jit(lambda windows: jax.lax.map(last, windows, batch_size=50))(windows)
    return Steps(whole.shared, each, whole.start)


def filtered(key: Array, model: Model, x: np.ndarray, steps: Steps, num: int) -> Filtered:
    """Returns the filter of the last frames of x, as many as there are statistics."""
    frame, params = model.vae.frame, model.params
    number = len(jax.tree.leaves(steps.each)[0])

    def run(key: Array, params: Any, steps: Steps, x: Array) -> Filtered:
        return frame.guide.filter(
            key, steps, markov_of(model, params), lambda z, x: frame.log_lik(params, z, x), x,
            num_particles=num,
        )  # fmt: skip

    return jax.jit(run)(key, params, steps, jnp.asarray(x[-number:]))


def markov_of(model: Model, params: Any) -> Markov:
    return model.vae.prior(params).prior


def predicted(key: Array, model: Model, particles: Array) -> np.ndarray:
    """Returns E[x_{t+h} | x_1..x_t] [n, horizons, D] from particles [n, K, Z] of z_t."""
    frame, params = model.vae.frame, model.params
    markov, at = markov_of(model, params), np.array(HORIZONS) - 1

    def of_path(key: Array, z: Array) -> Array:
        return jax.vmap(lambda z: frame.mean(params, z))(markov.after(key, z, HORIZONS[-1])[at])

    def of_origin(given: tuple[Array, Array]) -> Array:
        key, z = given
        return jnp.mean(jax.vmap(of_path)(jax.random.split(key, len(z)), z), axis=0)

    given = (jax.random.split(key, len(particles)), particles)
    return np.asarray(jax.jit(lambda given: jax.lax.map(of_origin, given))(given))


def score_sequences(
    model: Model, x: np.ndarray, first: int, seed: int, scale: Scale
) -> dict[str, Any]:
    """Returns log p of the last fifth given what came before, and the errors of predictions."""
    keys = jax.random.split(jax.random.key(seed), 3)
    steps = steps_of(model, x, first - WARM_UP, frey_film.get_config().data.window)
    found = filtered(keys[0], model, x, steps, scale.num_samples)
    few = filtered(keys[1], model, x, steps, scale.few)
    origins = np.arange(first - 1, len(x) - HORIZONS[-1])
    particles = found.particles[origins - (first - WARM_UP), : scale.num_paths]
    ahead = predicted(keys[2], model, particles)
    return {
        **scores(np.asarray(found.log_probs)[WARM_UP:]),
        "with_few": float(np.mean(np.asarray(few.log_probs)[WARM_UP:])),
        "rmse": errors(x, origins, np.moveaxis(ahead, 1, 0)),
    }


# Single frames, and the baselines


def score_frames(model: Model, x: np.ndarray, seed: int, scale: Scale) -> dict[str, Any]:
    """Returns log p of frames [n, D], which are independent."""
    found = []
    for number, count in enumerate(scale[:2]):
        estimate, _ = log_likelihood.estimate_points(
            jax.random.fold_in(jax.random.key(seed), number), (model.vae, model.params),
            Points(jnp.asarray(x), None), ESTIMATORS["importance"], {"num_samples": count},
        )  # fmt: skip
        found.append(np.asarray(estimate.value))
    return {**scores(found[0]), "with_few": float(np.mean(found[1]))}


def scores(values: np.ndarray) -> dict[str, Any]:
    return {"log_p": float(np.mean(values, dtype=np.float64)), "values": _rounded(values)}


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 1) for value in values]


def errors(x: np.ndarray, origins: np.ndarray, ahead: Any) -> dict[str, float]:
    """Returns the root mean square error of a pixel by horizon.

    Args:
        ahead: for each horizon, predictions [n, D] from the origins, or one [D].
    """
    found = {}
    for horizon, prediction in zip(HORIZONS, ahead, strict=True):
        difference = x[origins + horizon] - prediction
        found[str(horizon)] = float(np.sqrt(np.mean(np.square(difference), dtype=np.float64)))
    return found


def baselines(x: np.ndarray, num_train: int, first: int) -> dict[str, Any]:
    """Returns the scores of Gaussians around the previous frame and around the mean face.

    Each has one variance for each pixel, that of the training frames.
    """
    train, origins = x[:num_train], np.arange(first - 1, len(x) - HORIZONS[-1])
    mean_face = train.mean(axis=0)
    found = {}
    for name, residuals, center, ahead in (
        ("previous_frame", np.diff(train, axis=0), x[first - 1 : -1], x[origins]),
        ("mean_face", train - mean_face, mean_face, mean_face),
    ):
        std = np.sqrt(np.mean(np.square(residuals), axis=0, dtype=np.float64))
        log_p = scipy.stats.norm.logpdf(x[first:], center, std).sum(axis=1)
        rmse = errors(x, origins, [ahead] * len(HORIZONS))
        found[name] = {**scores(log_p), "rmse": rmse}
    return found


# The program


def measured(name: str, seed: int, folder: Path, num_examples: int, scale: Scale) -> dict[str, Any]:
    """Trains a run, or finds it finished; returns the scores of its best state.

    They are kept in a file beside its folder, for a program that was stopped.
    """
    values, kept = values_of(name, seed, num_examples), folder.with_suffix(".json")
    runs.run(values, folder)
    if kept.is_file():
        return json.loads(kept.read_text(encoding="utf-8"))
    run = load_run(folder, which="best")
    x, first = film()
    if name == "frames_random":
        test = data.load("frey_faces", Options(split="random")).test
        found = score_frames(run.model, test.astype(np.float32) / 256.0, seed, scale)
    elif name == "frames":
        found = score_frames(run.model, x[first:], seed, scale)
    else:
        found = score_sequences(run.model, x, first, seed, scale)
    found = {"seed": seed, **{field: run.summary[field] for field in OF_RUN}, **found}
    metrics_log.write_json(kept, found)
    return found


def draw(folder: Path, path: Path) -> None:
    """Writes an animation: the last fifth of the film, and a film that a model goes on with."""
    from PIL import Image

    model = load_run(folder, which="best").model
    x, first = film()
    steps = steps_of(model, x, first - WARM_UP, frey_film.get_config().data.window)
    z = filtered(jax.random.key(0), model, x, steps, Scale().few).particles[WARM_UP - 1, 0]
    path_of_z = markov_of(model, model.params).after(jax.random.key(1), z, SHOWN)
    means = jax.vmap(lambda z: model.vae.frame.mean(model.params, z))(path_of_z)
    both = np.concatenate(
        [part.reshape(SHOWN, 28, 20) for part in (x[first : first + SHOWN], np.asarray(means))],
        axis=2,
    )
    large = np.kron(
        np.clip(256.0 * both, 0, 255).astype(np.uint8), np.ones((1, SCALE, SCALE), np.uint8)
    )
    images = [Image.fromarray(image) for image in large]
    images[0].save(path, save_all=True, append_images=images[1:], duration=MILLISECONDS, loop=0)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="short, and not for publication")
    parser.add_argument("--runs", type=Path, help="the folder of the runs")
    parser.add_argument("--output", type=Path, help="the results file")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    args = parse(arguments)
    folder = args.runs or ROOT / "runs" / ("film-quick" if args.quick else "film")
    output = args.output or (folder / "film.json" if args.quick else OUTPUT)
    config = frey_film.get_config()
    num_examples = 2000 if args.quick else config.train.num_examples
    dataset = data.load("frey_faces", Options(split="blocked"))
    x, first = film()
    scale = QUICK if args.quick else Scale()
    models: dict[str, list[dict[str, Any]]] = {name: [] for name in MODELS}
    for seed in range(args.seeds):
        for name, found in models.items():
            found.append(measured(name, seed, folder / f"{name}-{seed}", num_examples, scale))
    report: Mapping[str, Any] = {
        "command": "python -m experiments.paper.film" + " --quick" * args.quick,
        "seeds": [*range(args.seeds)],
        "versions": provenance.versions(),
        "machine": provenance.machine(),
        "settings": {
            "window": config.data.window, "num_latents": config.model.num_latents,
            "warm_up": WARM_UP, **scale._asdict(),
        },
        "data": {"num_frames": len(x), "first_test": first, "num_train": len(dataset.train)},
        "baselines": baselines(x, len(dataset.train), first),
        "models": models,
    }  # fmt: skip
    metrics_log.write_json(output, report)
    if not args.quick:
        draw(folder / "neural-0", PICTURE)
    return 0


if __name__ == "__main__":
    sys.exit(reporting_mistakes(lambda: main(sys.argv[1:])))
