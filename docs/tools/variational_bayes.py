"""Runs the code of docs/variational_bayes.md from top to bottom, and draws its figures.

    python -m docs.tools.variational_bayes [--output=FOLDER]

The page's blocks of Python share one namespace, and assert the claims of the text. The figures are
drawn from the values in that namespace, so that the page, its code and its figures agree.
"""

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from aevb.reports import figures

from .plots import Clusters, Contours, Curves, Panel, panels

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "variational_bayes.md"
PICTURES = ROOT / "docs" / "variational_bayes"
FENCED = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A block of Python code of a page."""

    line: int  # of the page, where the block begins
    code: str


def blocks_of(text: str) -> list[Block]:
    return [
        Block(text.count("\n", 0, found.start(1)) + 1, found[1]) for found in FENCED.finditer(text)
    ]


def run(page: Path) -> SimpleNamespace:
    """Returns all names that the page's code defines; tracebacks show the lines of the page."""
    namespace: dict[str, Any] = {"__name__": page.stem}
    for block in blocks_of(page.read_text(encoding="utf-8")):
        lines = "\n" * (block.line - 1) + block.code
        exec(compile(lines, str(page), "exec"), namespace)
    return SimpleNamespace(**namespace)


# The figures, drawn from the names that the page's code defines


def coin(its: SimpleNamespace) -> dict[str, Panel]:
    theta = its.theta
    prior, posterior = (
        np.exp(its.jax.vmap(family.log_prob)(theta)) for family in (its.prior, its.exact)
    )
    likelihood = np.exp(its.log_joint) / prior
    guide = its.beta_bernoulli.logit_normal_guide()
    fitted = its.DiagNormal(*(leaf[None] for leaf in its.logit_normal))
    log_q = its.jax.vmap(lambda z: guide.log_prob(fitted, z[None]))(theta)
    return {
        "8 tosses, 6 heads": Curves(
            {
                "prior": (theta, prior),
                "likelihood, scaled to 1": (theta, likelihood / np.mean(likelihood)),
                "posterior": (theta, posterior),
                "the best logit-normal": (theta, np.exp(log_q)),
            },
            "θ, the probability of heads",
            "density",
        )
    }


def decomposition(its: SimpleNamespace) -> dict[str, Panel]:
    centres = its.centres
    return {
        "log p(D) = L(Q) + KL": Curves(
            {
                "log p(D)": (centres, its.parts.log_evidence),
                "the bound L(Q)": (centres, its.parts.bound),
                "KL(Q ‖ posterior)": (centres, its.parts.kl),
            },
            "where Q is",
            "nats",
        )
    }


def divergence(its: SimpleNamespace) -> dict[str, Panel]:
    z = np.linspace(-8.0, 8.0, 801)

    def normal(mean: float, std: float) -> np.ndarray:
        return np.exp(-0.5 * ((z - mean) / std) ** 2) / (std * np.sqrt(2.0 * np.pi))

    fits = zip(its.reverse.mean, its.reverse.std, strict=True)
    lines = {"P": (z, np.exp(its.jax.vmap(its.two.log_prob)(z)))}
    for start, (mean, std) in zip(("left", "right"), fits, strict=True):
        lines[f"least KL(Q ‖ P), from the {start}"] = (z, normal(mean, std))
    lines["least KL(P ‖ Q)"] = (z, normal(its.forward.mean, its.forward.std))
    return {"One Gaussian for two modes": Curves(lines, "z", "density")}


def functionals(its: SimpleNamespace) -> dict[str, Panel]:
    radius, angle = its.cycloid
    t = np.linspace(0.0, angle, 200)
    slide = its.slide
    return {
        "The quickest descent": Curves(
            {
                "cycloid": (radius * (t - np.sin(t)), -radius * (1.0 - np.cos(t))),
                "found, 64 pieces": (slide.x, -slide.y),
                "straight line": (np.array([0.0, slide.x[-1]]), np.array([0.0, -slide.y[-1]])),
            },
            "across (m)",
            "up (m)",
            axes={"aspect": "equal"},
        ),
        "The shortest path": Curves(
            {"start": (its.x, np.sin(3.0 * its.x)), "found": (its.x, its.line)}, "x", "y"
        ),
    }


def mean_field(its: SimpleNamespace) -> dict[str, Panel]:
    x, y = np.linspace(-2.5, 4.0, 120), np.linspace(-4.0, 2.5, 120)
    grid = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1)

    def over_grid(log_prob: Callable[[Any], Any]) -> np.ndarray:
        return np.exp(its.jax.vmap(its.jax.vmap(log_prob))(grid))

    last = its.states[-1]
    factorized = its.Normal(last.mean, np.diag(last.variance))
    updates, best = np.arange(len(its.bounds)), its.correlated.bound(its.optimum)
    return {
        "Coordinate ascent": Contours(
            x,
            y,
            {"P": over_grid(its.target.log_prob), "Q": over_grid(factorized.log_prob)},
            "z₁",
            "z₂",
            path=np.stack([state.mean for state in its.states]),
        ),
        "The bound rises": Curves(
            {
                "−KL(Q ‖ P)": (updates, np.array(its.bounds)),
                "the best factorized Q": (updates, np.full(len(updates), best)),
            },
            "updates of a factor",
            "nats",
        ),
    }


def _normal_gamma_planes(
    its: SimpleNamespace,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns mu, tau, and the densities of the exact posterior and of mean field on a grid."""
    mu, tau = np.linspace(-1.0, 2.2, 150), np.linspace(0.02, 6.0, 150)
    log_prob = its.jax.vmap(its.jax.vmap(its.together.log_prob, (None, 0)), (0, None))
    exact = np.exp(log_prob(mu, tau))
    apart = its.apart
    of_mu = np.exp(-0.5 * apart.precision * (mu - apart.mean) ** 2)
    of_mu *= np.sqrt(apart.precision / (2.0 * np.pi))
    of_tau = np.exp(its.jax.vmap(apart.tau.log_prob)(tau))
    return mu, tau, exact, np.outer(of_mu, of_tau)


def normal_gamma(its: SimpleNamespace) -> dict[str, Panel]:
    mu, tau, exact, factorized = _normal_gamma_planes(its)
    densities = {"exact posterior": exact, "q(μ) q(τ)": factorized}
    return {"A normal's mean and precision": Contours(mu, tau, densities, "μ", "τ")}


def em(its: SimpleNamespace) -> dict[str, Panel]:
    number = len(its.pixels)
    sweeps = np.arange(1, 41)
    greatest = np.full(40, its.log_lik(its.best))
    return {
        "The bound per datapoint": Curves(
            {
                "EM": (sweeps, its.em_bounds[:40, -1] / number),
                "spherical q(z)": (sweeps, its.spherical_bounds[:40, -1] / number),
                "greatest likelihood": (sweeps, greatest),
            },
            "sweeps",
            "nats per datapoint",
        ),
        "Variational Bayes becomes EM": Curves(
            {"its means, from the optimum": (np.array([1, 10, 100]), np.array(its.losses))},
            "copies of the data",
            "nats per datapoint",
            marker="o",
            axes={"xscale": "log", "yscale": "log"},
        ),
    }


def occam(its: SimpleNamespace) -> dict[str, Panel]:
    degrees = np.arange(len(its.occam.bound))
    fit, points = its.mixture, its.points
    clusters = its.gaussian_mixture.predict(fit, points)
    parts = (points, clusters, fit.means, fit.covariances, fit.weights)
    return {
        "Degree of a polynomial": Curves(
            {
                "the bound": (degrees, its.occam.bound),
                "greatest log-likelihood": (degrees, its.occam.greatest_log_lik),
            },
            "degree",
            "nats",
            marker="o",
        ),
        "A mixture that has counted": Clusters(*map(np.asarray, parts)),
    }


def gibbs(its: SimpleNamespace) -> dict[str, Panel]:
    mu, tau, _, factorized = _normal_gamma_planes(its)
    of_mu, edges = np.histogram(its.draws[..., 0].ravel(), bins=mu[::3], density=True)
    return {
        "Draws, and q(μ) q(τ)": Contours(
            mu, tau, {"q(μ) q(τ)": factorized}, "μ", "τ", points=its.draws[:, ::10].reshape(-1, 2)
        ),
        "Mean field is too sure of μ": Curves(
            {
                "Gibbs": (0.5 * (edges[1:] + edges[:-1]), of_mu),
                "q(μ)": (mu, factorized.sum(axis=1) * (tau[1] - tau[0])),
            },
            "μ",
            "density",
        ),
    }


def aevb(its: SimpleNamespace) -> dict[str, Panel]:
    steps = np.arange(1, 1001)
    greatest = np.full(1000, its.log_lik(its.best))
    sweeps = np.arange(1, 201)
    return {
        "One linear-Gaussian model": Curves(
            {
                "AEVB, by gradient steps": (steps, its.aevb_bounds[:1000]),
                "EM, by sweeps": (sweeps, its.em_bounds[:, -1] / len(its.pixels)),
                "greatest likelihood": (steps, greatest),
            },
            "steps",
            "nats per datapoint",
            axes={"xscale": "log"},
        )
    }


FIGURES = (
    coin, decomposition, divergence, functionals, mean_field, normal_gamma, em, occam, gibbs, aevb
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=PICTURES, help="where the pictures go")
    output: Path = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    namespace = run(PAGE)
    for make in FIGURES:
        figures.save(panels(make(namespace)), str(output / f"{make.__name__}.png"))
        print(output / f"{make.__name__}.png")


if __name__ == "__main__":
    main()
