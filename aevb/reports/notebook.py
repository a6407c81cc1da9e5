"""The HTML of a trained run in a notebook: its bounds, its curve and its pictures."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from aevb.data import Description
from aevb.evaluation import manifold
from aevb.reports import figures, run_figures
from aevb.reports.explorer import describe_bounds
from aevb.storage.metrics_log import curve
from aevb.types import PyTree
from aevb.vae import VAE

DPI = 60


def html_of(
    vae: VAE,
    params: PyTree,
    data: Description,
    summary: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
) -> str:
    """Returns a heading, a table of the bounds, the curve of the bound and, for images, samples.

    With two latents, the decoded plane takes the place of the samples.
    """
    name = f"{data.name}: {vae.size_of_z} latent dimensions"
    rows = "".join(
        f"<tr><td>{html.escape(row)}</td><td>{html.escape(value)}</td></tr>"
        for row, value in describe_bounds(summary)
    )
    drawn = [figures.bound_curve(curve(history), title="bound during training")]
    if data.image_shape is not None:
        images = run_figures.generated_images(vae, params, data)
        grids = {shown: np.asarray(grid) for shown, grid in images.items()}
        if "manifold" in grids:
            planes = {"E[x|z] over the latent plane": grids["manifold"]}
            drawn.append(figures.manifolds(planes, manifold.QUANTILES))
        else:
            drawn.append(
                figures.samples({"E[x|z] at random z ~ p(z)": np.concatenate(grids["samples"])})
            )
    pictures = "".join(map(_picture, drawn))
    return f"<h4>{html.escape(name)}</h4><table>{rows}</table>{pictures}"


def _picture(figure: Figure) -> str:
    """Returns a figure as an HTML image that contains its own PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, dpi=DPI, format="png")
    return f'<img src="data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}">'
