"""Regularised optimal transport from a heatmap to a few points."""

from hdmlib.transport.problem import (
    COSTS,
    REGULARISERS,
    Solution,
    TransportWarning,
    regularised_emd,
    solve,
    solve_maps,
)

__all__ = ["COSTS", "REGULARISERS", "Solution", "TransportWarning", "regularised_emd", "solve", "solve_maps"]
