"""Writes the tables and figures of README.md and docs/*.md from the results files.

    python -m docs.tools

The text between the marks `<!-- NAME -->` and `<!-- end -->` of a document is the output of
`TABLES[NAME]` for the committed results, which a test checks. `docs.tools.paper` writes
docs/paper.md.
"""

from collections.abc import Callable, Mapping

from aevb.reports import figures

from . import accelerator, doctor, estimators, few_labels, film, mixtures, results, scaling, speed
from .documents import ROOT, filled_in

DOCUMENTS = (
    ROOT / "README.md",
    *(
        ROOT / "docs" / f"{name}.md"
        for name in ("results", "estimators", "speed", "scaling", "variational_bayes", "doctor")
    ),
)
TABLES: Mapping[str, Callable[[], str]] = {
    **results.TABLES, **estimators.TABLES, **speed.TABLES, **scaling.TABLES, **mixtures.TABLES,
    **accelerator.TABLES, **doctor.TABLES, **film.TABLES, **few_labels.TABLES,
}  # fmt: skip
FIGURES = {**results.FIGURES, **estimators.FIGURES, **speed.FIGURES, **film.FIGURES}


def main() -> None:
    for document in DOCUMENTS:
        document.write_text(
            filled_in(document.read_text(encoding="utf-8"), TABLES), encoding="utf-8"
        )
    for name, draw in FIGURES.items():
        figures.save(draw(), str(ROOT / "docs" / f"{name}.png"))


if __name__ == "__main__":
    main()
