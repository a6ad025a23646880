"""protect: from live resources to a checkpoint."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar, Self

from karbor_actors.actors import DaemonExecutor
from karbor_actors.bank.checkpoints.resource_rows import Consistency, ConsistencyLevel, Ending
from karbor_actors.errors import OperationCancelledError
from karbor_actors.graph import build_graph
from karbor_actors.model import CheckpointStatus, OperationStatus, OperationType
from karbor_actors.operations.admission.conflicts import (
    LockRequest,
    checkpoint_lock,
    resource_locks,
)
from karbor_actors.operations.hooks.context import CallerContext
from karbor_actors.operations.hooks.previous import PreviousCheckpoints
from karbor_actors.operations.verbs.abandoning import abandoned
from karbor_actors.operations.verbs.children import ChildChoice
from karbor_actors.operations.verbs.verb import Verb
from karbor_actors.schedule import HOOKS_PER_RESOURCE, MAIN
from karbor_actors.schema import merge_call_parameters

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

    from karbor_actors.bank.checkpoints.checkpoint import Checkpoint
    from karbor_actors.bank.writer import Change
    from karbor_actors.errors import ResourceKey
    from karbor_actors.graph import ResourceGraph
    from karbor_actors.model import Plan, Resource
    from karbor_actors.operations.outcome import Outcome
    from karbor_actors.operations.planning import PlannedOperation
    from karbor_actors.operations.run import OperationRun
    from karbor_actors.operations.verbs.options import CallOptions
    from karbor_actors.provider import Provider

_LOOKUPS_AT_ONCE = 16
_SLOW = 50e-6
"""Seconds from which a look-up is worth a thread: it waits for something."""
_PATIENCE = 0.02
"""Seconds that slow look-ups may take in all before the rest goes to threads."""
_PIECES_EACH = 8
_MAX_PIECE = 256


class ParallelMap:
    """An executor's ``map``, with the executor made when it is first needed.

    Args:
        clock: Returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._executor: DaemonExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)

    def __call__(self, function: Callable[..., Any], items: Iterable[Any]) -> Iterator[Any]:
        """Yield the results of *function* for *items*, in their order.

        The calls are made here until slow ones have taken some time: threads that do not wait
        for anything only wait for each other. All that is left then goes to the threads, in
        pieces, since handing one over costs more than most look-ups; still, each thread gets
        several pieces, in case some take long.
        """
        listed = list(items)
        clock, waited = self._clock, 0.0
        for done, item in enumerate(listed, 1):
            began = clock()
            found = function(item)
            took = clock() - began
            yield found
            if took > _SLOW and (waited := waited + took) > _PATIENCE:
                yield from self._map_in_threads(function, listed[done:])
                return

    def _map_in_threads(self, function: Callable[..., Any], items: list[Any]) -> Iterator[Any]:
        if self._executor is None:
            self._executor = DaemonExecutor(_LOOKUPS_AT_ONCE, "karbor-look-up")
        size = min(max(len(items) // (_LOOKUPS_AT_ONCE * _PIECES_EACH), 1), _MAX_PIECE)
        pieces = [items[start : start + size] for start in range(0, len(items), size)]
        found = self._executor.map(lambda piece: [function(item) for item in piece], pieces)
        return chain.from_iterable(found)


class Protect(Verb):
    """Makes a checkpoint of a plan's resources and of all that depends on them.

    Args:
        plan: What to protect.
        pin: Lets an operation, by its id, share a lock until it ends; False if somebody has it alone.
    """

    type: ClassVar[OperationType] = OperationType.PROTECT
    is_writer: ClassVar[bool] = True
    replans: ClassVar[bool] = True

    def __init__(
        self,
        operation_id: str,
        provider: Provider,
        options: CallOptions,
        plan: Plan,
        pin: Callable[[str, Hashable], bool],
    ) -> None:
        super().__init__(operation_id, provider, options)
        self._plan, self._pin = plan, pin

    def plan(self) -> PlannedOperation:
        """Ask the protectable plugins for the graph, the protection plugins for operations.

        A resource that its plugin cannot find is refused here: it has no data to be saved.
        A recovered protect has its graph: the one that its checkpoint kept.
        """
        parameters = merge_call_parameters(self._plan.parameters, self.options.parameters)
        if self.recovered is not None:
            kept = self.bank.checkpoint(self.checkpoint_id or "").resource_graph
            return self._planned(kept, parameters)
        given = self.options.context
        context = given
        if given is None or isinstance(given, Mapping):
            context = CallerContext(given or {}, self._check_cancelled)
        protectables = self.provider.protectables.for_context(context)
        choice = ChildChoice(self.provider, parameters)

        def find_children(resource: Resource) -> Sequence[Resource]:
            self._check_cancelled()
            self.looked_up += 1
            return choice.of(resource, protectables.find_children(context, resource))

        with ParallelMap() as map_parallel:
            protectables.look_up(context, self._plan.resources, map_parallel)
            graph = build_graph(
                self._plan.resources,
                find_children,
                map_parallel=map_parallel,
            )
        return self._planned(graph, parameters)

    def _check_cancelled(self) -> None:
        if self.is_cancelled:
            raise OperationCancelledError("protect was cancelled")

    def locks(self, graph: ResourceGraph) -> LockRequest:
        """Return the live resources."""
        return LockRequest(exclusive=resource_locks(graph))

    def open(self, planned: PlannedOperation) -> OperationRun:
        """Make the checkpoint, ``protecting``, and record the operation, in one transaction."""
        if self.recovered is not None:
            run = self._begin(planned, self.bank.checkpoint(self.checkpoint_id or ""))
        else:
            self.checkpoint_id = str(uuid.uuid4())
            change = self.bank.create_checkpoint_change(
                plan=self._plan,
                provider=self.provider.name,
                graph=planned.graph,
                checkpoint_id=self.checkpoint_id,
            )
            run = self._begin(planned, None, change)
        run.find_previous = self._find_previous
        return run

    @cached_property
    def _previous(self) -> PreviousCheckpoints:
        """Made for the first that asks: most plugins do not."""
        return PreviousCheckpoints(
            self.bank,
            lambda found: self._pin(self.operation_id, checkpoint_lock(self.bank, found)),
        )

    def _find_previous(self, key: ResourceKey) -> Checkpoint | None:
        return self._previous(key)

    def abandon(self, outcome: Outcome) -> Change[Any] | None:
        """Return what makes the checkpoint an error."""
        now, end = CheckpointStatus.PROTECTING, CheckpointStatus.ERROR
        return abandoned(self.bank, self.checkpoint_id, outcome, now=now, end=end)

    def conclude(self, run: OperationRun, outcome: Outcome) -> Change[Any] | None:
        """Return what makes the checkpoint available, partial or error."""
        status = {
            OperationStatus.SUCCEEDED: CheckpointStatus.AVAILABLE,
            OperationStatus.PARTIAL: CheckpointStatus.PARTIAL,
        }.get(outcome.status, CheckpointStatus.ERROR)
        kept, saved = run.memory.kept(), run.checkpoint.saved()
        for number in kept:
            saved[number] = 1
        consistency = {
            number: Consistency(ConsistencyLevel(level), cause)
            for number, (level, cause) in run.memory.consistencies().items()
        }
        held = (n for n, is_saved in enumerate(saved) if is_saved and n not in outcome.resources)
        is_one = status is not CheckpointStatus.ERROR and _is_of_one_moment(run, held, consistency)
        ending = Ending(
            statuses=outcome.resources,
            empty=(n for n, is_saved in enumerate(saved) if not is_saved),
            error_info=outcome.error_info(),
            point_in_time=run.point_in_time() if is_one else None,
            consistency=consistency,
            artifacts=kept,
        )
        return run.checkpoint.finish_change(status, ending, expected={CheckpointStatus.PROTECTING})

    def conclude_again(self, run: OperationRun, outcome: Outcome) -> Change[Any]:
        """Return what says where the checkpoint's resources stand now."""
        now = run.checkpoint.status
        return run.checkpoint.finish_change(now, Ending(statuses=outcome.resources), expected={now})

    def give_up(self, run: OperationRun, outcome: Outcome) -> Change[Any] | None:
        """Return what makes the checkpoint an error."""
        return self.conclude(run, outcome)

    def result(self, run: OperationRun, outcome: Outcome) -> Checkpoint:
        """Return the checkpoint as its end was recorded, for reading."""
        if self._concluded is None:
            return self.bank.checkpoint(run.checkpoint.id)
        return run.checkpoint.recorded_as(self._concluded)

    def _plan_name(self) -> str:
        return self._plan.name


def _is_of_one_moment(
    run: OperationRun, held: Iterable[int], consistency: Mapping[int, Consistency]
) -> bool:
    """Return whether all that is *held* was as its prepare hooks found it, none of it later.

    As far as the plugins say so: who says nothing may have copied while others wrote.
    """
    count, kinds = 0, run.planned.hook_kinds
    for number in held:
        found = consistency.get(number)
        prepares = kinds[number * HOOKS_PER_RESOURCE : number * HOOKS_PER_RESOURCE + MAIN]
        if found is None or found.level is ConsistencyLevel.NONE or not any(prepares):
            return False
        count += 1
    return count > 0
