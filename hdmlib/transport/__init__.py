"""Regularised optimal transport from a heatmap to a few points: the problem, its solution and its gradient."""

from hdmlib.transport.cost import COSTS, Cost
from hdmlib.transport.problem import (
    REGULARISERS,
    Problem,
    Solution,
    TransportWarning,
    regularised_emd,
    solve,
    solve_maps,
)

__all__ = [
    "COSTS",
    "REGULARISERS",
    "Cost",
    "Problem",
    "Solution",
    "TransportWarning",
    "regularised_emd",
    "solve",
    "solve_maps",
]
