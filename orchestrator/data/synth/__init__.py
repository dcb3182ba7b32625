"""A made-up factory: machines with known physics, known faults and the challenge's folder layout."""

from orchestrator.data.synth.factory import FactorySummary, make_factory
from orchestrator.data.synth.options import FactoryOptions

__all__ = ["FactoryOptions", "FactorySummary", "make_factory"]
