"""For tests and measurements of the engine, and of programs that embed it."""

from karbor_actors.testing.graphs import SHAPES, SyntheticGraph, make_graph
from karbor_actors.testing.synthetic import (
    Figures,
    SyntheticProtectable,
    SyntheticProtection,
    Work,
    run_synthetic,
    synthetic_plan,
    synthetic_provider,
)

__all__ = [
    "SHAPES",
    "Figures",
    "SyntheticGraph",
    "SyntheticProtectable",
    "SyntheticProtection",
    "Work",
    "make_graph",
    "run_synthetic",
    "synthetic_plan",
    "synthetic_provider",
]
