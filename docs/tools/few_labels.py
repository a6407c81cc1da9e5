"""The table of docs/results.md: errors of M1, M2 and M1+M2 with few labels of MNIST."""

from collections.abc import Callable, Mapping

from aevb.evaluation.intervals import mean_interval
from experiments.paper.few_labels import RESULTS

from .documents import MISSING, read, table

METHODS = {"m1_svm": "M1 and a classifier", "m2": "M2", "m1_m2": "M1+M2"}
PUBLISHED = {  # Kingma et al. (2014), table 1; from memory, of M1 with a transductive SVM
    "m1_svm": {100: 11.82, 600: 5.72, 1000: 4.24, 3000: 3.49},
    "m2": {100: 11.97, 600: 4.94, 1000: 3.60, 3000: 3.92},
    "m1_m2": {100: 3.33, 600: 2.59, 1000: 2.40, 3000: 2.18},
}
CHOICES = {
    "standardized": "standardized features, layers of 100 units, 4 passes over the training images",
    "means": "the features as they are, without standardization",
    "noisy": "and drawn anew in each step",
    "wide": "and layers of 300 units",
    "long": "and 20 passes",
}


def few_labels_table() -> str:
    """Returns the mean test error of each method by the number of labels, in percent."""
    if not RESULTS.is_file():
        return MISSING
    results = read(RESULTS)["results"]
    rows = []
    for count in sorted({one["count"] for one in results}):
        row = {"labels": f"{count:,}"}
        for method, title in METHODS.items():
            errors = [
                100.0 * one["test"]
                for one in results
                if (one["method"], one["count"]) == (method, count)
            ]
            found = f"{mean_interval(errors).text(2)}, {len(errors)} draws" if errors else MISSING
            row |= {title: found, f"{title}, published": f"{PUBLISHED[method][count]:.2f}"}
        rows.append(row)
    return table(rows)


def choices_table() -> str:
    """Returns the validation error of M1+M2 by choices, each added to those above it."""
    found = read(RESULTS).get("choices", []) if RESULTS.is_file() else []
    if not found:
        return MISSING
    rows = [
        {"M1+M2": CHOICES[one["choice"]], "validation error": f"{100.0 * one['valid']:.2f}"}
        for one in found
    ]
    return table(rows)


TABLES: Mapping[str, Callable[[], str]] = {
    "few labels": few_labels_table, "choices for few labels": choices_table,
}  # fmt: skip
