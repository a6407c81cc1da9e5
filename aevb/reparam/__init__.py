"""The reparameterizations of section 2.4: z = g(params, eps), where eps has no parameters.

Each of the paper's three methods has a file, and each of the paper's families an entry. The
gradient of an expectation over z passes through g. Elliptical and Dirichlet are joint over the
dimensions of z. All others act on each dimension separately, and their `log_prob` sums over
dimensions. Logistic is in two of the paper's lists, so the same entry is in two tables here.
"""

from aevb.reparam.composition import COMPOSITION
from aevb.reparam.family import Family
from aevb.reparam.inverse_cdf import INVERSE_CDF
from aevb.reparam.location_scale import LOCATION_SCALE

FAMILIES: dict[str, Family] = {**INVERSE_CDF, **LOCATION_SCALE, **COMPOSITION}
"""The reparameterized families by name."""
