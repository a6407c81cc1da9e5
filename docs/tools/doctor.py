"""The tables of docs/doctor.md: how often the doctor finds what is wrong, by cause."""

from collections.abc import Callable, Mapping
from typing import Any

from .documents import MISSING, RESULTS, read, table

FILE = RESULTS / "doctor.json"


def _percent(value: float | None, half_width: float | None = None) -> str:
    if value is None:
        return "–"
    spread = "" if half_width is None else f" ± {100 * half_width:.0f}"
    return f"{100 * value:.0f}{spread} %"


def _result() -> dict[str, Any] | None:
    return read(FILE) if FILE.is_file() else None


def totals() -> str:
    """Returns the table of recall and false alarms, with intervals over situations."""
    if (result := _result()) is None:
        return MISSING
    words = {"recall": "faults that are found", "false_alarms": "healthy runs with a hint"}
    return table(
        {
            "": word,
            "mean": _percent(result[name]["mean"], result[name]["half_width"]),
            "situations": str(result[name]["situations"]),
            "runs": str(result[name]["runs"]),
        }
        for name, word in words.items()
    )


def causes() -> str:
    """Returns the table of recall and precision by cause."""
    if (result := _result()) is None:
        return MISSING
    return table(
        {
            "cause": cause.replace("_", " "),
            "situations": str(row["situations"]),
            "found": _percent(row["recall"]),
            "runs in which it is named": str(row["named"]),
            "of them right": _percent(row["precision"]),
        }
        for cause, row in result["by_cause"].items()
    )


TABLES: Mapping[str, Callable[[], str]] = {"doctor totals": totals, "doctor causes": causes}
