"""The tables of docs/variational_bayes.md: how often a mixture's number of components is right."""

from collections.abc import Mapping
from typing import Any

from .documents import benchmark, table

CONTENDERS = {
    "aevb": "`gaussian_mixture.fit`",
    "sklearn_bic": "`GaussianMixture`, BIC",
    "sklearn_bayesian": "`BayesianGaussianMixture`",
}


def counts_table() -> str:
    """Returns how often each contender finds the true number, with the numbers found otherwise."""
    report = benchmark("mixture_counts")
    situations = report["situations"].values()

    def cell(situation: Mapping[str, Any], name: str) -> str:
        wrong = [
            str(number)
            for number in situation["found"][name]
            if number != situation["num_clusters"]
        ]
        found = f" (found {', '.join(wrong)})" if wrong else ""
        return f"{situation['right'][name]} of {report['sets']}{found}"

    rows = [
        {
            "situation": situation["title"],
            "K": str(situation["num_clusters"]),
            **{title: cell(situation, name) for name, title in CONTENDERS.items()},
        }
        for situation in situations
    ]
    totals = {
        title: f"{sum(situation['right'][name] for situation in situations)} of "
        f"{report['sets'] * len(situations)}"
        for name, title in CONTENDERS.items()
    }
    return table([*rows, {"situation": "all", "K": "", **totals}], are_numbers=False)


def times_table() -> str:
    """Returns the range over situations of the seconds that each contender takes for a data set."""
    situations = benchmark("mixture_counts")["situations"].values()

    def spread(name: str, which: str) -> str:
        seconds = [situation["seconds"][name][which] for situation in situations]
        return f"{min(seconds):.2g} to {max(seconds):.2g}"

    return table(
        {"": title, "first data set (s)": spread(name, "first"), "next (s)": spread(name, "median")}
        for name, title in CONTENDERS.items()
    )


TABLES = {"mixture counts": counts_table, "mixture times": times_table}
