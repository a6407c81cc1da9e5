"""A summary table of the faults that were tried and their outcomes."""

from collections import Counter

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints a table of every report that has the properties "fault" and "outcome"."""
    found: Counter[tuple[str, str]] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport) and report.when == "call":
                properties = dict(report.user_properties)
                if "fault" in properties:
                    outcome = properties.get("outcome") if report.passed else "FAILED"
                    found[str(properties["fault"]), str(outcome)] += 1
    if found:
        terminalreporter.section("faults")
        for (fault, outcome), count in sorted(found.items()):
            terminalreporter.write_line(f"{count:5}  {fault:44} {outcome}")
