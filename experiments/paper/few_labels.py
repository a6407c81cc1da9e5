"""Classifies MNIST with few labels by M1, M2 and M1+M2 of Kingma et al. (2014).

python -m experiments.paper.few_labels [--data-dir=FOLDER] [--counts=100,600,1000,3000] \
[--draws=5,5,5,5] [--methods=m1_svm,m2,m1_m2] [--runs=FOLDER]

M1 is a VAE of the 50,000 training images without labels, trained once; its features are the means
of q(z|x). m1_svm is a support vector machine on the features of the labelled images, m2 is M2 on
the images, and m1_m2 is M2 on the features, to which each step adds noise with the variances of
q(z|x), averaged over the images. --draws are the numbers of label draws by count.
First the settings in SEARCHED are compared by the validation error of one more draw of the first
count, and at last, on that draw, what the choices for M1+M2 in CHOICES do to the error. Each result
is written to experiments/results/few_labels.json when it is there, and a result that is in it is
not computed again. `python -m docs.tools` makes the tables of docs/results.md.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aevb.cli.common import Parser, reporting_mistakes
from aevb.config import Values, validate, with_values
from aevb.data import Dataset, preprocessing, splits
from aevb.evaluation.elbo import fixed_input, in_blocks
from aevb.experiment import build, load
from aevb.experiments import few_labels
from aevb.runtime import provenance
from aevb.storage import metrics_log
from aevb.training import loop
from aevb.types import Key
from aevb.vae import VAE

from .studies import ROOT

RESULTS = ROOT / "experiments" / "results" / "few_labels.json"
RUNS = ROOT / "runs" / "few_labels"
SEARCH_SEED = 100  # of the draw by which settings are chosen
METHODS = ("m1_svm", "m2", "m1_m2")
SPLITS = ("valid", "test")
M1: Mapping[str, Any] = {"model.labels": "", "data.num_labels": 0, "train.num_examples": 500_000}
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "m2": {
        "train.num_examples": 100_000, "algorithm.label_weight": 10.0, "model.hidden": (100,),
        "model.layer_hidden": (100,), "model.num_latents": 20,
    },
    "m1_m2": {
        "train.num_examples": 1_000_000, "algorithm.label_weight": 10.0, "model.hidden": (300,),
        "model.layer_hidden": (300,), "model.num_latents": 10,
        "model.likelihood": "gaussian", "model.init_at_mean": False, "data.name": "array:features",
        "data.split": "", "data.binarization": "none",
    },
}  # fmt: skip
SHORT: Mapping[str, Any] = {
    "train.num_examples": 200_000, "model.hidden": (100,), "model.layer_hidden": (100,),
}  # fmt: skip
CHOICES: Mapping[
    str, Mapping[str, Any]
] = {  # other settings of M1+M2, each fewer than the one before
    "standardized": {**SHORT, "features": "standardized"},
    "means": {**SHORT, "features": "means"},
    "noisy": SHORT,
    "wide": {"train.num_examples": 200_000},
    "long": {},
}
SVM = {"C": 10.0, "gamma": "scale"}
SEARCHED: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "m1_svm": [{"C": c, "gamma": "scale"} for c in (1.0, 10.0, 100.0)],
    "m2": [{"algorithm.label_weight": weight} for weight in (0.1, 1.0, 10.0)],
    "m1_m2": [{"algorithm.label_weight": weight} for weight in (0.1, 1.0, 10.0)],
}


def config_of(data_dir: Path | None, fields: Mapping[str, Any]) -> Values:
    """Returns the config of experiments/few_labels.py with other values."""
    brought = {"data.manual_dir": str(data_dir.absolute())} if data_dir else {}
    return validate(with_values(few_labels.get_config(), {**brought, **fields}))


def trained(values: Values, dataset: Dataset) -> tuple[VAE, Any]:
    """Trains a config on a dataset, without evaluations; returns the model and its parameters."""
    _, vae, algorithm = build(values, dataset)
    key, batch_size = jax.random.key(values["seed"]), values["train.batch_size"]
    advance = loop.make_advance(algorithm, dataset.preprocess, batch_size=batch_size)
    state, _ = loop.train_to(
        advance,
        loop.run_keys(key).loop,
        jnp.asarray(dataset.train),
        loop.first_state(algorithm.init, key),
        values["train.num_examples"] // batch_size,
    )
    return vae, algorithm.vae_params(state.params)


def features_of(file: Path, images: Dataset, data_dir: Path | None) -> Dataset:
    """Returns MNIST with the features of M1 for its images; its preprocessing adds their noise.

    They are not standardized: a latent that is not active would become noise of variance 1. They
    are read from the file if it exists; else M1 is trained, and the file written. Its input is the
    grey levels in [0, 1], the means of the binary images that it was trained on.
    """
    if not file.is_file():
        vae, params = trained(config_of(data_dir, M1), images)

        @jax.jit
        @jax.vmap
        def encode(x: Any) -> Any:
            return vae.encode(params, x.astype(jnp.float32) / 255.0)

        found = {
            name: in_blocks(lambda block, split=split: encode(split[block]), np.arange(len(split)))
            for name, split in images.splits.items()
        }
        std = np.sqrt(np.mean(np.exp(found["train"].log_var), axis=0))
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, std=std, **{name: of_split.mean for name, of_split in found.items()})
    stored = np.load(file)
    std = jnp.asarray(stored["std"])

    def preprocess(key: Key, mean: Any) -> Any:
        return mean + std * jax.random.normal(key, mean.shape)

    return images._replace(
        name="array:features", kind="real", preprocess=preprocess, image_shape=None, levels=None,
        **{name: stored[name] for name in images.splits},
    )  # fmt: skip


def with_features(features: Dataset, kind: str) -> Dataset:
    """Returns the features as they are, or only their means, or these standardized."""
    if kind == "noisy":
        return features
    fixed = features._replace(preprocess=preprocessing.unchanged)
    if kind == "means":
        return fixed
    mean, std = np.mean(features.train, axis=0), np.std(features.train, axis=0)
    parts = {
        name: np.float32((part - mean) / np.maximum(std, 1e-3))
        for name, part in features.splits.items()
    }
    return fixed._replace(**parts)


def with_draw(dataset: Dataset, count: int, seed: int) -> Dataset:
    """Returns a dataset that shows `count` labels of the training data."""
    labels = dataset.labels
    assert labels is not None
    is_shown = splits.drawn_labels(labels.train, labels.names, count, seed)
    return dataset._replace(labels=labels._replace(is_shown=is_shown))


def error_of_svm(dataset: Dataset, options: Mapping[str, Any]) -> dict[str, float]:
    """Returns the errors of a support vector machine with a Gaussian kernel on features."""
    from sklearn.svm import SVC

    labels = dataset.labels
    assert labels is not None
    seen = labels.shown >= 0
    machine = SVC(**options).fit(dataset.train[seen], labels.train[seen])
    return {
        split: 1.0 - float(machine.score(dataset.splits[split], labels.of_split(split)))
        for split in SPLITS
    }


def error_of_m2(
    dataset: Dataset, values: Values, preprocess: Callable[[Key, Any], Any]
) -> dict[str, float]:
    """Trains M2; returns the errors of q(y|x) at the end of training.

    Args:
        preprocess: of the data that are classified, in the place of the dataset's.
    """
    vae, params = trained(values, dataset)

    @jax.jit
    def classify(stored: Any, index: Any) -> Any:
        x = jax.vmap(partial(fixed_input, preprocess))(index, stored)
        return jnp.argmax(jax.vmap(lambda x: vae.encode(params, x).logits)(x), axis=1)

    def error(split: str) -> float:
        data, labels = dataset.splits[split], dataset.labels
        assert labels is not None
        found = in_blocks(lambda block: classify(data[block], block), np.arange(len(data)))
        return float(np.mean(found != labels.of_split(split)))

    return {split: error(split) for split in SPLITS}


def result_of(
    method: str, images: Dataset, features: Dataset, count: int, seed: int,
    data_dir: Path | None, changes: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Returns the errors of a method on a draw of labels, whose seed is also that of training."""
    began = time.monotonic()
    changes = dict(changes)
    kind = changes.pop("features", "noisy")
    drawn = with_draw(images if method == "m2" else with_features(features, kind), count, seed)
    if method == "m1_svm":
        errors = error_of_svm(drawn, {**SVM, **changes})
    else:
        fields = {**SETTINGS[method], "data.num_labels": count, "seed": seed, **changes}
        values = config_of(data_dir, {**fields, "data.label_seed": seed})
        preprocess = images.preprocess if method == "m2" else preprocessing.unchanged
        errors = error_of_m2(drawn, values, preprocess)
    return {"seconds": round(time.monotonic() - began, 1), **errors}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="where the files of MNIST lie")
    parser.add_argument("--counts", type=_numbers, default=[100, 600, 1000, 3000])
    parser.add_argument("--draws", type=_numbers, default=[5, 5, 5, 5], help="for each count")
    parser.add_argument("--methods", type=lambda text: text.split(","), default=[*METHODS])
    parser.add_argument("--runs", type=Path, default=RUNS, help="the folder of the features of M1")
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser.parse_args(arguments)


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def _joined(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))


def candidates(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns what is compared to choose settings: one draw, which is used for nothing else."""
    return [
        {"method": method, "count": given.counts[0], "seed": SEARCH_SEED, "changes": dict(changes)}
        for method in given.methods
        for changes in SEARCHED[method]
    ]


def chosen(searched: Sequence[Mapping[str, Any]], method: str) -> dict[str, Any]:
    """Returns the changed settings of a method whose validation error is least."""
    own = [one for one in searched if one["method"] == method]
    return dict(min(own, key=lambda one: one["valid"])["changes"])


def wanted(
    given: argparse.Namespace, searched: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Returns the results that are asked for, those of the first draw of every count first."""
    return [
        {"method": method, "count": count, "seed": seed, "changes": chosen(searched, method)}
        for seed in range(max(given.draws))
        for count, draws in zip(given.counts, given.draws, strict=True)
        for method in given.methods
        if seed < draws
    ]


def report(given: argparse.Namespace, compute: Callable[..., dict[str, Any]]) -> None:
    """Computes what is missing in the results file, and writes the file after each result."""
    shown = f"--counts={_joined(given.counts)} --draws={_joined(given.draws)}"
    found: dict[str, Any] = {"searched": [], "results": [], "choices": []}
    if given.output.is_file():
        found |= json.loads(given.output.read_text(encoding="utf-8"))

    def add(kind: str, asked: Sequence[Mapping[str, Any]]) -> None:
        for one in asked:
            if any(all(done[name] == one[name] for name in one) for done in found[kind]):
                continue
            fields = {**one}
            if "choice" in one:
                name = fields.pop("choice")
                fields["changes"] = {**chosen(found["searched"], one["method"]), **CHOICES[name]}
            found[kind].append({**one, **compute(**fields)})
            print(found[kind][-1], flush=True)
            metrics_log.write_json(
                given.output,
                found
                | {
                    "command": f"python -m experiments.paper.few_labels {shown}",
                    "settings": {"m1": M1, "m1_svm": SVM, **SETTINGS},
                    "versions": provenance.versions(),
                    "machine": provenance.machine(),
                },
            )

    add("searched", candidates(given))
    add("results", wanted(given, found["searched"]))
    if "m1_m2" in given.methods:
        draw = {"method": "m1_m2", "count": given.counts[0], "seed": SEARCH_SEED}
        add("choices", [{**draw, "choice": name} for name in CHOICES])


def main(arguments: Sequence[str]) -> int:
    given = parse(arguments)
    images = load(config_of(given.data_dir, {"data.num_labels": 0}))
    features = features_of(given.runs / "m1_features.npz", images, given.data_dir)
    report(
        given,
        lambda method, count, seed, changes: result_of(
            method, images, features, count, seed, given.data_dir, changes
        ),
    )
    return 0


if __name__ == "__main__":
    sys.exit(reporting_mistakes(lambda: main(sys.argv[1:])))
