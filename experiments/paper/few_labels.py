"""Classifies MNIST with few labels by M1, M2 and M1+M2 of Kingma et al. (2014).

python -m experiments.paper.few_labels [--data-dir=FOLDER] [--counts=100,600,1000,3000] \
[--draws=5,5,5,5] [--methods=m1_svm,m2,m1_m2] [--runs=FOLDER]

M1 is a VAE of the 50,000 training images without labels, trained once; its features are the means
of q(z|x). m1_svm is a support vector machine on the features of the labelled images, m2 is M2 on
the images, and m1_m2 is M2 on the features. --draws are the numbers of label draws by count. The
settings in SETTINGS were chosen by the validation error of one draw; --search repeats that. Each
result is written to experiments/results/few_labels.json when it is there, and a result that is in
it is not computed again. `python -m docs.tools` makes the table of docs/results.md from it.
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

from aevb import runs
from aevb.cli.common import Parser, reporting_mistakes
from aevb.config import Values, validate, with_values
from aevb.data import Dataset, preprocessing, splits
from aevb.evaluation.elbo import fixed_input, in_blocks
from aevb.experiment import build, load
from aevb.experiments import few_labels
from aevb.runs.trained import load_run
from aevb.runtime import provenance
from aevb.storage import metrics_log
from aevb.training import trainer
from aevb.training.journal import MemoryJournal

from .studies import ROOT

RESULTS = ROOT / "experiments" / "results" / "few_labels.json"
RUNS = ROOT / "runs" / "few_labels"
METHODS = ("m1_svm", "m2", "m1_m2")
SPLITS = ("valid", "test")
COMMON: Mapping[str, Any] = {"train.first_eval": 10**9, "train.eval_examples": 1000}
M1: Mapping[str, Any] = {
    "model.labels": "", "data.num_labels": -1, "train.num_examples": 1_000_000,
}  # fmt: skip
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "m2": {**COMMON, "train.num_examples": 250_000, "algorithm.label_weight": 1.0},
    "m1_m2": {
        **COMMON, "train.num_examples": 500_000, "algorithm.label_weight": 1.0,
        "model.likelihood": "gaussian", "model.init_at_mean": False, "data.name": "array:features",
        "data.split": "", "data.binarization": "none",
    },
}  # fmt: skip
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


def features_of(folder: Path, data_dir: Path | None) -> Dataset:
    """Returns MNIST with the features of M1 for its images, standardized by the training data.

    M1 is trained in the folder, or resumed. Its input is the grey levels in [0, 1], the means of
    the binary images that it was trained on.
    """
    runs.run(config_of(data_dir, M1), folder)
    model = load_run(folder).model
    images = load(config_of(data_dir, {}))
    encode = jax.jit(jax.vmap(lambda x: model.encode(x.astype(jnp.float32) / 255.0).mean))
    found = {
        name: in_blocks(lambda block, split=split: encode(split[block]), np.arange(len(split)))
        for name, split in images.splits.items()
    }
    mean, std = np.mean(found["train"], axis=0), np.std(found["train"], axis=0)
    parts = {name: (part - mean) / np.maximum(std, 1e-3) for name, part in found.items()}
    return images._replace(
        name="array:features", kind="real", preprocess=preprocessing.unchanged, image_shape=None,
        levels=None, **{name: np.float32(part) for name, part in parts.items()},
    )  # fmt: skip


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


def error_of_m2(dataset: Dataset, values: Values) -> dict[str, float]:
    """Trains M2; returns the errors of q(y|x) at the end of training."""
    experiment = build(values, dataset)
    settings, journals = runs.settings_of(values), []

    def open_journal(first: Any) -> MemoryJournal:
        journals.append(MemoryJournal(first, settings, None))
        return journals[0]

    trained = trainer.fit(runs.training_of(experiment, values), settings, open_journal)
    params = experiment.algorithm.vae_params(trained.state.params)

    @jax.jit
    def classify(params: Any, stored: Any, index: Any) -> Any:
        x = jax.vmap(partial(fixed_input, dataset.preprocess))(index, stored)
        return jnp.argmax(jax.vmap(lambda x: experiment.vae.encode(params, x).logits)(x), axis=1)

    def error(split: str) -> float:
        data, labels = dataset.splits[split], dataset.labels
        assert labels is not None
        found = in_blocks(lambda block: classify(params, data[block], block), np.arange(len(data)))
        return float(np.mean(found != labels.of_split(split)))

    return {split: error(split) for split in SPLITS}


def result_of(
    method: str, images: Dataset, features: Dataset, count: int, seed: int,
    data_dir: Path | None, changes: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Returns the errors of a method on a draw of labels, whose seed is also that of training."""
    began = time.monotonic()
    drawn = with_draw(images if method == "m2" else features, count, seed)
    if method == "m1_svm":
        errors = error_of_svm(drawn, {**SVM, **changes})
    else:
        fields = {**SETTINGS[method], "data.num_labels": count, "seed": seed, **changes}
        errors = error_of_m2(drawn, config_of(data_dir, {**fields, "data.label_seed": seed}))
    seconds = round(time.monotonic() - began, 1)
    return {"method": method, "count": count, "seed": seed, "seconds": seconds, **errors}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="where the files of MNIST lie")
    parser.add_argument("--counts", type=_numbers, default=[100, 600, 1000, 3000])
    parser.add_argument("--draws", type=_numbers, default=[5, 5, 5, 5], help="for each count")
    parser.add_argument("--methods", type=lambda text: text.split(","), default=[*METHODS])
    parser.add_argument("--search", action="store_true", help="compare settings by one draw")
    parser.add_argument("--runs", type=Path, default=RUNS, help="the folder of M1")
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser.parse_args(arguments)


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def wanted(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns the method, count, seed and changed settings of each result that is asked for."""
    if given.search:
        return [
            {"method": method, "count": given.counts[0], "seed": 100, "changes": changes}
            for method in given.methods
            for changes in SEARCHED[method]
        ]
    return [
        {"method": method, "count": count, "seed": seed, "changes": {}}
        for count, draws in zip(given.counts, given.draws, strict=True)
        for method in given.methods
        for seed in range(draws)
    ]


def report(given: argparse.Namespace, compute: Callable[..., dict[str, Any]]) -> None:
    """Computes what is missing in the results file, and writes the file after each result."""
    found: dict[str, Any] = {"searched": [], "results": []}
    if given.output.is_file():
        found |= json.loads(given.output.read_text(encoding="utf-8"))
    kind = "searched" if given.search else "results"
    for one in wanted(given):
        if any(all(done.get(name) == one[name] for name in one) for done in found[kind]):
            continue
        result = {**compute(**one), "changes": dict(one["changes"])}
        print(result, flush=True)
        found[kind].append(result)
        found |= {
            "command": "python -m experiments.paper.few_labels",
            "settings": {"m1": M1, "m1_svm": SVM, **SETTINGS},
            "versions": provenance.versions(),
            "machine": provenance.machine(),
        }
        metrics_log.write_json(given.output, found)


def main(arguments: Sequence[str]) -> int:
    given = parse(arguments)
    features = features_of(given.runs / "m1", given.data_dir)
    images = load(config_of(given.data_dir, {}))
    report(
        given,
        lambda method, count, seed, changes: result_of(
            method, images, features, count, seed, given.data_dir, changes
        ),
    )
    return 0


if __name__ == "__main__":
    sys.exit(reporting_mistakes(lambda: main(sys.argv[1:])))
