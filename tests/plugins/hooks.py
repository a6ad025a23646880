"""Drives a plugin's hooks against a real bank, without an engine; import as ``plugins.hooks``."""

from __future__ import annotations

import logging
from typing import Any

import cerberus

from karbor_actors.errors import HookCancelledError
from karbor_actors.graph import build_graph
from karbor_actors.model import HOOKS, AbortKind, AbortReason
from karbor_actors.operations.verbs.report import ResourceReport


class State(dict):
    """``context.state``: what was not flushed, or kept by a hook's end, is lost by a crash."""

    def __init__(self):
        super().__init__()
        self._durable: dict[str, Any] = {}

    def flush(self):
        self._durable = dict(self)

    def crash(self):
        self.clear()
        self.update(self._durable)


class Context:
    """A hook's context, with the calls of the engine's."""

    def __init__(self, previous=None, on_progress=lambda: None):
        self.previous = previous
        self.state = State()
        self.attempt = 1
        self.idempotency_key = "operation-resource"
        self.log = logging.getLogger("karbor_actors.hooks")
        self.cancelled = False
        self.reports: list[tuple[float, float | None, str]] = []
        self._on_progress = on_progress

    def progress(self, done, total=None, unit=""):
        self.reports.append((done, total, unit))
        self._on_progress()

    def report_consistency(self, level, cause=""):
        self.consistency = level, cause

    def check_cancelled(self):
        if self.cancelled:
            raise HookCancelledError


class Driver:
    """Runs the hooks of one plugin, one resource at a time, in order."""

    def __init__(self, bank, plugin):
        self.bank, self.plugin = bank, plugin
        self.report = ResourceReport("operation", "checkpoint")

    def new_checkpoint(self, resource, children=()):
        """Return a checkpoint whose graph is *resource* with its *children*."""
        plan = {"name": "test", "provider": "local", "resources": [resource.to_dict()]}
        graph = build_graph(
            [resource], lambda parent: tuple(children) if parent == resource else ()
        )
        return self.bank.create_checkpoint(plan, "local", graph)

    def protect(self, resource, *, previous=None, children=(), context=None, **parameters):
        checkpoint = self.new_checkpoint(resource, children)
        context = context or Context(previous)
        self.run("protect", checkpoint, resource, context, parameters)
        return checkpoint

    def verify(self, checkpoint, resource, **parameters):
        self.run("verify", checkpoint, resource, Context(), parameters)

    def restore(self, checkpoint, resource, *, context=None, **parameters):
        """Restore, and return where the resource is now."""
        new_resources: dict[str, str] = {}
        context = context or Context()
        self.run("restore", checkpoint, resource, context, parameters, new_resources=new_resources)
        return new_resources[resource.id]

    def run(self, verb, checkpoint, resource, context, parameters, *, hooks=HOOKS, **kwargs):
        """Run *hooks*; state is durable after each."""
        operation = self.operation(verb, resource)
        if verb in {"restore", "verify"}:
            kwargs.setdefault("new_resources", {})
            kwargs.setdefault(verb, self.report)
        for hook in hooks:
            given = self.parameters(verb, resource, parameters)
            getattr(operation, hook)(checkpoint, resource, context, given, **kwargs)
            context.state.flush()

    def abort(self, verb, checkpoint, resource, context, **parameters):
        self.operation(verb, resource).on_abort(
            checkpoint,
            resource,
            context,
            self.parameters(verb, resource, parameters),
            new_resources={},
            reason=AbortReason(AbortKind.FAILURE, "a test"),
            began=frozenset(),
            completed=frozenset(),
            artifacts=(),
        )

    def operation(self, verb, resource):
        return getattr(self.plugin, f"get_{verb}_operation")(resource)

    def parameters(self, verb, resource, given):
        """Return *given* with the defaults of the plugin's schema, validated."""
        getter = "get_options_schema" if verb == "protect" else f"get_{verb}_schema"
        checker = cerberus.Validator(getattr(self.plugin, getter)(resource.type))
        assert checker.validate(given), checker.errors
        return checker.document
