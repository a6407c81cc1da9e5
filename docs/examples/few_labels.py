"""Classification with 50 labels of 1,258 digits: M1, M2 and M1+M2 of Kingma et al. (2014).

python docs/examples/few_labels.py

M1 is a VAE that ignores the labels, and any classifier of its features. M2 is p(y) p(z) p(x|y, z)
with q(y|x), trained on all datapoints; M1+M2 is M2 on the features of M1.
"""

import jax
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import aevb

SETTINGS = {
    "data.split": "random",
    "data.num_labels": 50,  # of the training data, drawn with data.label_seed
    "model.hidden": (64,),
    "model.layer_hidden": (64,),
    "optimizer.step_size": 0.003,
    "train.batch_size": 50,
}


def errors_of_m1(run):
    """Returns the validation and the test error of a classifier of the means of q(z|x)."""
    labels, shown = run.dataset.labels, run.dataset.labels.shown
    features = {split: features_of(run, run.points(split)) for split in run.dataset.splits}
    classifier = LogisticRegression(max_iter=2000)
    classifier.fit(features["train"][shown >= 0], shown[shown >= 0])
    return [
        1.0 - classifier.score(features[split], labels.of_split(split))
        for split in ("valid", "test")
    ]


def features_of(run, x):
    """Returns the means of q(z|x) of datapoints x [N, ...], as [N, Z]."""
    return np.asarray(jax.vmap(lambda one: run.encode(one).mean)(x))


def main(num_examples=60_000):
    """Returns the validation and the test error of M1, of M2 and of M1+M2."""
    x, y = load_digits(return_X_y=True)
    x = (x > 7).reshape(-1, 8, 8)  # binary images
    fields = {**SETTINGS, "train.num_examples": num_examples}
    m1 = aevb.fit(x, {**fields, "model.labels": ""}, y=y, num_latents=10)
    m2 = aevb.fit(x, fields, y=y, num_latents=10)
    both = aevb.fit(features_of(m1, x), fields, y=y, num_latents=5)
    of_m2 = [[run.summary[f"{s}_label_error"] for s in ("valid", "test")] for run in (m2, both)]
    return [errors_of_m1(m1), *of_m2]


if __name__ == "__main__":
    for name, (valid, test) in zip(("M1", "M2", "M1+M2"), main(), strict=True):
        print(f"{name}: error {valid:.1%} of the validation data, {test:.1%} of the test data")
