"""What a plugin must bear, as tests that its author runs against it; needs pytest."""

from karbor_actors.testing.conformance.subject import Subject
from karbor_actors.testing.conformance.suite import PluginConformance

__all__ = ["PluginConformance", "Subject"]
