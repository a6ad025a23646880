"""How a running operation is brought to where a later process can go on with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from karbor_actors.operations.recovery.suspension import cannot_resume, needed_hooks
from karbor_actors.schedule import DONE, DROPPED, FAILED

if TYPE_CHECKING:
    from karbor_actors.operations.control import OperationControl

_ENDED = (DONE, FAILED, DROPPED)


class Suspending:
    """Lets the hooks run that end what is held, and no other. The control thread only."""

    def __init__(self, control: OperationControl) -> None:
        self._control = control

    @property
    def is_on(self) -> bool:
        """Whether the operation ends with nothing undone, for a later process to go on."""
        return self._control.run.needed is not None and self._control.reason is None

    def leaves(self, hook: int) -> bool:
        """Return whether *hook* is left to the process that goes on."""
        needed = self._control.run.needed
        return self.is_on and needed is not None and hook not in needed

    def begin(self) -> bool:
        """End the critical spans that are open, then start nothing more.

        Returns:
            False if no later process could go on with it: then it is to be undone.
        """
        control = self._control
        run, schedule = control.run, control.schedule
        if control.reason is not None or run.needed is not None or run.is_settled():
            return True
        if schedule.is_over:
            return True  # it comes to its end: nothing is left to go on with, or to be asked about
        is_stuck = cannot_resume(run.planned, schedule, control.undo.concerns)
        if is_stuck or not run.bank.is_writable:
            return False
        run.needed = needed = needed_hooks(run.planned, schedule)
        control.admit(control.intake.clear())
        control.withdraw(lambda hook: hook not in needed)
        control.overtime.take_back()
        self.end_spans()
        return True

    def end_spans(self) -> None:
        """Close the schedule once no hook is needed any more."""
        control, needed = self._control, self._control.run.needed
        if needed is not None and control.reason is None:
            schedule = control.schedule
            if not schedule.is_closed and all(schedule.state(hook) in _ENDED for hook in needed):
                schedule.close()
                control.undo.hooks_changed()
        control.request_flush()
