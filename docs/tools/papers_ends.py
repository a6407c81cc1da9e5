"""The ends of AEVB's curves in figure 2 of the paper, from memory of the figure.

They were not measured on the figure. The paper prints no numbers, and its axes span 50 nats for
MNIST and 1,600 nats for the Frey faces, so that a value is accurate to 3 nats or 50 nats at best.
"""

from typing import NamedTuple

EXAMPLES = 100_000_000  # where the paper's axes end


class End(NamedTuple):
    """A remembered value of the bound in nats per datapoint, and its greatest error."""

    bound: float
    error: float

    def __str__(self) -> str:
        return f"{self.bound:g} ± {self.error:g}"

    def has(self, bound: float) -> bool:
        """Returns whether a bound is within the error."""
        return abs(bound - self.bound) <= self.error


ENDS = {  # by the title of a panel
    "MNIST, Z = 3": End(-136.0, 3.0),
    "MNIST, Z = 5": End(-122.0, 3.0),
    "MNIST, Z = 10": End(-108.0, 3.0),
    "MNIST, Z = 20": End(-101.5, 3.0),
    "MNIST, Z = 200": End(-101.5, 3.0),
    "Frey faces, Z = 2": End(1075.0, 75.0),
    "Frey faces, Z = 5": End(1275.0, 50.0),
    "Frey faces, Z = 10": End(1350.0, 50.0),
    "Frey faces, Z = 20": End(1350.0, 50.0),
}
