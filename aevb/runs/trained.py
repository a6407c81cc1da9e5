"""A trained run as pure functions of one datapoint, for use in other programs."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax import Array

from aevb import labels, missing, runs
from aevb.config import Values, of_finished_run
from aevb.data import (
    PREFIXES,
    Dataset,
    DatasetEntry,
    Description,
    load_entry,
    units,
    user_files,
)
from aevb.errors import UserError
from aevb.experiment import data_options
from aevb.losses import REAL, evidence_lower_bound
from aevb.marginal import importance_sampling
from aevb.missing import Imputation
from aevb.proposals import PROPOSALS
from aevb.runs.load import experiment_of, model_of_run, read_state
from aevb.storage.metrics_log import read_records, read_with_digest
from aevb.types import Key, PyTree
from aevb.vae import VAE


class Model(NamedTuple):
    """A trained model as compiled functions of one datapoint as the model takes it, x [D].

    They use `params`. For a run of full variational Bayes, the decoder's weights are the mean of
    their posterior.
    """

    encode: Callable[[Array], PyTree]  # x [D] -> statistics of q(z|x), such as a DiagNormal
    decode: Callable[[Array], Array]  # z [Z] -> E[x|z] [D]
    log_prob: Callable[..., Array]  # (key, x [D], num_samples=5000) -> log p(x) [], nats
    bound: Callable[..., Array]  # (key, x [D], num_samples=100) -> bound on log p(x) [], nats
    sample: Callable[[Key], tuple[Array, Array]]  # -> z [Z] ~ p(z), x [D] ~ p(x|z)
    # (key, x [D] with NaN, num_samples=1000, num_draws=100) -> a `missing.Imputation`
    impute: Callable[..., Imputation]
    preprocess: Callable[[Key, Array], Array]  # (key, a datapoint as stored [D]) -> x [D]
    vae: VAE  # the model from which the functions above are built
    params: PyTree


def model_of(vae: VAE, params: PyTree, data: Description) -> Model:
    """Returns a model's functions at these parameters.

    `log_prob` is importance sampling from a density fitted to each datapoint's posterior, a
    stochastic lower bound. `aevb.marginal` has other estimators, with standard errors. `impute`
    samples from such a density too. Labels are summed over, with the encoder's samples given each.
    Where z is not real, both sample from the encoder.
    """
    proposal = PROPOSALS["laplace" if vae.guide.support == REAL else "encoder"]

    def log_prob(params: PyTree, key: Key, x: Array, num_samples: int = 5000) -> Array:
        fit_key, draw_key = jax.random.split(key)
        joint = vae.joint(params, x)
        if vae.given_label is not None:
            model = labels.of_latents(vae.encode(params, x), vae.given_label, joint)
            return labels.log_prob(draw_key, model, num_samples=num_samples)
        fit = proposal(fit_key, vae.encode(params, x), vae.guide, joint)
        return importance_sampling(draw_key, *fit, joint, num_samples=num_samples).value

    def bound(params: PyTree, key: Key, x: Array, num_samples: int = 100) -> Array:
        stats, joint = vae.encode(params, x), vae.joint(params, x)
        return evidence_lower_bound(key, stats, vae.guide, joint, num_samples=num_samples)

    def impute(
        params: PyTree, key: Key, x: Array, num_samples: int = 1000, num_draws: int = 100
    ) -> Imputation:
        fit_key, key = jax.random.split(key)
        joint = vae.joint(params, x)
        fit = proposal(fit_key, vae.encode(params, x), vae.guide, joint)
        return missing.impute(
            key, x, *fit, joint,
            mean=lambda z: vae.mean(params, z), draw=lambda key, z: vae.draw(key, params, z),
            num_samples=num_samples, num_draws=num_draws,
        )  # fmt: skip

    def sample(params: PyTree, key: Key) -> tuple[Array, Array]:
        return vae.sample(key, params)

    def compiled(function: Callable[..., Any], *static: str) -> Callable[..., Any]:
        return partial(jax.jit(function, static_argnames=static), params)

    return Model(
        encode=compiled(vae.encode),
        decode=compiled(vae.mean),
        log_prob=compiled(log_prob, "num_samples"),
        bound=compiled(bound, "num_samples"),
        sample=compiled(sample),
        impute=compiled(impute, "num_samples", "num_draws"),
        preprocess=data.preprocess,
        vae=vae,
        params=params,
    )


class Origin(Protocol):
    """The storage of a run, a folder or the memory, by which it is saved and trained longer."""

    def dataset(self) -> Dataset:
        """Returns the run's data, checked."""
        ...

    def save(self, folder: Path) -> None:
        """Writes the run into a new folder."""
        ...

    def extend(self, num_examples: int) -> "TrainedRun":
        """Trains the run until it has seen `num_examples` in total."""
        ...


@dataclass(frozen=True, eq=False)
class TrainedRun:
    """A trained run. Its functions of one datapoint can be jitted and vmapped.

    x is in the shape and the units of the user's data: grey levels in 0..255, numbers before their
    standardization. `model` has the functions of x as the model takes it. log p(x) is that of the
    model's x, but of standardized data it is the log-density in their own units.
    """

    model: Model
    data: Description  # the kind, the shape and the preprocessing of the data
    config: Values
    summary: Mapping[str, Any]  # the bounds and the measurements at the end of training
    history: list[dict[str, Any]]  # a record for each evaluation
    step: int  # the number of training steps of `model`
    origin: Origin

    def encode(self, x: Any, key: Key | None = None) -> PyTree:
        """Returns the statistics of q(z|x), such as a DiagNormal.

        Args:
            x: a datapoint, in the user's shape and units, or flat.
            key: for data with a random preprocessing, such as a binarization.

        Raises:
            UserError: the shape of x is wrong, or the key is missing.
        """
        return self.model.encode(units.to_model(self.data, x, key))

    def label_probs(self, x: Any, key: Key | None = None) -> Array:
        """Returns q(y|x) [C], the probabilities of the classes `data.Labels.names`.

        Args:
            x, key: as for `encode`.

        Raises:
            UserError: as for `encode`, or the run has no labels.
        """
        if not self.model.vae.num_labels:
            raise UserError(
                f"this run of {self.data.name} has no labels; set config.model.labels=m2 in a new "
                "one"
            )
        return jax.nn.softmax(self.encode(x, key).logits)

    def decode(self, z: Array) -> Array:
        """Returns E[x|z] of z [Z], in the user's shape and units."""
        return units.from_model(self.data, self.model.decode(z))

    def log_prob(self, key: Key, x: Any, num_samples: int = 5000) -> Array:
        """Estimates log p(x) [] in nats: importance sampling, a stochastic lower bound.

        Args:
            key: for the samples, and for a random preprocessing.
            x: a datapoint, in the user's shape and units, or flat.
            num_samples: K.

        Raises:
            UserError: the shape of x is wrong.
        """
        x_key, key = self._split_key(key)
        return self.model.log_prob(key, units.to_model(self.data, x, x_key), num_samples)

    def bound(self, key: Key, x: Any, num_samples: int = 100) -> Array:
        """Estimates the evidence lower bound [] in nats, which is below log p(x) on average.

        It is that of the summary, `losses.evidence_lower_bound`.

        Args:
            key: for the samples, and for a random preprocessing.
            x: a datapoint, in the user's shape and units, or flat.
            num_samples: L.

        Raises:
            UserError: the shape of x is wrong.
        """
        x_key, key = self._split_key(key)
        return self.model.bound(key, units.to_model(self.data, x, x_key), num_samples)

    def _split_key(self, key: Key) -> tuple[Key | None, Key]:
        """Returns a key for the preprocessing, None if it is not random, and one for samples."""
        if not units.is_random(self.data):
            return None, key
        x_key, key = jax.random.split(key)
        return x_key, key

    def sample(self, key: Key) -> tuple[Array, Array]:
        """Draws z [Z] ~ p(z) and x ~ p(x|z), x in the user's shape and units."""
        z, x = self.model.sample(key)
        return z, units.from_model(self.data, x)

    def impute(self, key: Key, x: Any, num_samples: int = 1000, num_draws: int = 100) -> Imputation:
        """Estimates the missing values of x, which are NaN, and draws them given the seen ones.

        Args:
            key: for the samples, and for a random preprocessing.
            x: a datapoint, in the user's shape and units, or flat.
            num_samples: K, of `missing.impute`.
            num_draws: S, the draws [S, ...] of whole datapoints, for intervals.

        Raises:
            UserError: the shape of x is wrong, or the run was trained without missing values.
        """
        if not self.data.has_missing:
            raise UserError(
                f"the run of {self.data.name} was trained without missing values, so that its "
                "encoder takes none; train one with data.missing=True, or data.hide"
            )
        x_key, key = self._split_key(key)
        found = self.model.impute(key, units.to_model(self.data, x, x_key), num_samples, num_draws)
        return found._replace(
            mean=units.from_model(self.data, found.mean),
            draws=jax.vmap(lambda one: units.from_model(self.data, one))(found.draws),
        )

    @cached_property
    def dataset(self) -> Dataset:
        """The data of the run as stored, real data standardized; `points` has the user's units.

        Those of a folder are loaded at the first use, and checked.

        Raises:
            UserError: they are missing or have changed.
        """
        return self.origin.dataset()

    def points(self, split: str) -> np.ndarray:
        """Returns the datapoints of a split, [N, ...] in the user's shape and units.

        Args:
            split: "train", "valid" or "test".

        Raises:
            UserError: the data are missing or have changed, or there is no such split.
        """
        splits = self.dataset.splits
        if split not in splits:
            raise UserError(f"split is {split!r}; it must be one of {', '.join(splits)}")
        stored = np.asarray(splits[split])
        if self.data.of_x is not None:
            stored = self.data.of_x.invert(stored.astype(np.float64))
        return stored.reshape(-1, *self.data.shape)

    def save(self, folder: str | Path) -> Path:
        """Writes the run into a new folder, from which `load_run` reads it; returns the folder.

        Raises:
            UserError: the folder holds something, or cannot be written.
        """
        self.origin.save(Path(folder))
        return Path(folder)

    def export(self, folder: str | Path) -> Path:
        """Writes the model for programs without this package into a new folder; returns the folder.

        The encoder and the decoder are StableHLO, in the user's shape and units, the parameters
        safetensors. model.json describes them. `docs/how_to/export.md` has a program that loads
        them.

        Raises:
            UserError: the folder holds files or cannot be written, or the model cannot be exported.
        """
        from aevb.runs.export import export  # imports safetensors, which a run does not need

        num_examples = self.step * self.config["train.batch_size"]
        bounds = {name: value for name, value in self.summary.items() if "bound" in name}
        about = {
            "step": self.step,
            "num_examples": num_examples,
            "evaluation": next((r for r in self.history if r["examples"] == num_examples), None),
            "summary": {**bounds, "num_examples": self.summary["num_examples"]},
        }
        export(Path(folder), self.model.vae, self.model.params, self.data, self.config, about)
        return Path(folder)

    def extend(self, num_examples: int) -> "TrainedRun":
        """Trains on until the run has seen `num_examples` in total; returns the longer run.

        Its last state is bitwise that of a run that was asked for so many examples at first. The
        log keeps the evaluation at the former end. A run in a folder goes on in this folder.

        Raises:
            UserError: the run has seen more.
        """
        return self.origin.extend(num_examples)

    def __repr__(self) -> str:
        number, bound = self.summary["num_examples"], self.summary["test_bound"]
        return (
            f"<TrainedRun of {self.data.name}: {self.model.vae.size_of_z} latent dimensions, "
            f"{number:,} examples, test bound {bound:.2f} nats>"
        )

    def _repr_html_(self) -> str:
        from aevb.reports.notebook import html_of  # imports matplotlib

        return html_of(self.model.vae, self.model.params, self.data, self.summary, self.history)


class InFolder(NamedTuple):
    """A run in its folder."""

    folder: Path
    config: Values
    given: Dataset | None  # the data, if they are in memory and were given to `load_run`
    which: str  # of `load_run`

    def dataset(self) -> Dataset:
        """Loads the run's data.

        Raises:
            UserError: they are missing or have changed.
        """
        return experiment_of(self.folder, self.config, self.given).dataset

    def save(self, folder: Path) -> None:
        """Copies the run's folder.

        Raises:
            UserError: the new folder exists, or cannot be written.
        """
        if folder.exists():
            raise UserError(f"{folder} exists; name a new folder to save the run in")
        try:
            shutil.copytree(self.folder, folder)
        except OSError as error:
            raise UserError(f"{folder} cannot be written ({error}); name another folder") from error

    def extend(self, num_examples: int) -> TrainedRun:
        """Trains the run longer, in its folder."""
        config = {**self.config, "train.num_examples": num_examples}
        runs.run(config, self.folder, dataset=self.given)
        data = "" if self.given is None else self.given
        return load_run(self.folder, which=self.which, data=data)


def load_run(
    folder: str | Path,
    *,
    which: str = "last",
    step: int | None = None,
    data: Any = "",
) -> TrainedRun:
    """Loads a finished run, whose functions need no data.

    Args:
        folder: the run's folder.
        which: "last", the state at the end of training, or "best", the one with the highest
            validation bound.
        step: the step of a checkpoint that the run kept, instead of these two.
        data: the data's new name, such as file:FILE, if they have moved since the run; or the
            array, if the run was trained on an array in memory, and (x, y) if it had labels.

    Raises:
        UserError: there is no finished run, it has no such sound checkpoint, or it has a
            preprocessing of the user's own, and the data that define it are missing or have
            changed.
    """
    folder = Path(folder)
    config = of_finished_run(folder, data if isinstance(data, str) else "")
    given = None if isinstance(data, str) else dataset_of(data, config)
    description, vae, algorithm = model_of_run(folder, config, given)
    state = read_state(folder, algorithm, config, step, which=which)
    return TrainedRun(
        model=model_of(vae, algorithm.vae_params(state.params), description),
        data=description,
        config=config,
        summary=read_with_digest(folder / runs.SUMMARY),
        history=read_records(folder / "metrics.jsonl"),
        step=int(state.step),
        origin=InFolder(folder, config, given, which),
    )


def dataset_of(x: Any, config: Values) -> Dataset:
    """Returns an array in memory, or a dataset of one, as the data of a config.

    Args:
        x: the array, a pair of it and its labels, or the dataset.

    Raises:
        UserError: the array is unsuitable.
    """
    if isinstance(x, Dataset):
        return x
    x, y = x if isinstance(x, tuple) else (x, None)
    columns = [str(name) for name in x.columns] if hasattr(x, "columns") else None
    entry = DatasetEntry(
        lambda options: user_files.of_array(x, options, columns, y), *PREFIXES[user_files.ARRAY][1:]
    )
    dataset = load_entry("x", entry, data_options(config))
    return dataset._replace(train=np.array(dataset.train))  # a copy, because x may be changed
