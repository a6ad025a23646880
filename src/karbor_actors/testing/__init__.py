"""For tests and measurements of the engine, and of programs that embed it."""

from karbor_actors.testing.fault_rules import Action, Point, Rule
from karbor_actors.testing.faults import FaultPlan, Fired, install_faults_from_environment
from karbor_actors.testing.graphs import SHAPES, SyntheticGraph, make_graph
from karbor_actors.testing.simulated import Crash, SimulatedService, crash_everywhere
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
    "Action",
    "Crash",
    "FaultPlan",
    "Figures",
    "Fired",
    "Point",
    "Rule",
    "SimulatedService",
    "SyntheticGraph",
    "SyntheticProtectable",
    "SyntheticProtection",
    "Work",
    "crash_everywhere",
    "install_faults_from_environment",
    "make_graph",
    "run_synthetic",
    "synthetic_plan",
    "synthetic_provider",
]
