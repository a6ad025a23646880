"""The conformance suite as a test class; a plugin's author derives from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import pytest

from karbor_actors.testing.conformance import checks
from karbor_actors.testing.conformance.trial import VERBS

if TYPE_CHECKING:
    from pathlib import Path

    from karbor_actors.testing.conformance.subject import Subject

_for_each_verb = pytest.mark.parametrize("verb", VERBS)


class PluginConformance:
    """Tests that every plugin passes; derive from it, and say which :attr:`subject`."""

    subject: ClassVar[type[Subject]]
    """What is tested."""

    def test_schemas_take_their_own_defaults_and_no_unknown_field(self, tmp_path: Path) -> None:
        """Check each schema of each verb."""
        checks.check_schemas(self.subject, tmp_path / "subject")

    def test_every_verb_succeeds_and_leaves_nothing(self, tmp_path: Path) -> None:
        """Run each verb twice."""
        checks.check_success(self.subject, tmp_path / "subject")

    @_for_each_verb
    def test_a_hook_that_fails_is_undone(self, tmp_path: Path, verb: str) -> None:
        """Fail each hook, before and after its body."""
        checks.check_failure(self.subject, tmp_path, verb)

    @_for_each_verb
    def test_a_hook_may_run_again(self, tmp_path: Path, verb: str) -> None:
        """Run each hook twice."""
        checks.check_repeats(self.subject, tmp_path, verb)

    @_for_each_verb
    def test_on_abort_may_run_again(self, tmp_path: Path, verb: str) -> None:
        """Run ``on_abort`` twice after each hook."""
        checks.check_abort_twice(self.subject, tmp_path, verb)

    @_for_each_verb
    def test_a_hook_that_acts_late_is_undone(self, tmp_path: Path, verb: str) -> None:
        """Give each hook up before its body acts."""
        checks.check_late(self.subject, tmp_path, verb)

    @_for_each_verb
    def test_a_cancelled_hook_leaves(self, tmp_path: Path, verb: str) -> None:
        """Cancel each verb as each hook begins."""
        checks.check_cancel(self.subject, tmp_path, verb)

    @_for_each_verb
    def test_a_killed_process_is_recovered(self, tmp_path: Path, verb: str) -> None:
        """Kill a process before and after each hook's body."""
        checks.check_kill(self.subject, tmp_path, verb)

    def test_a_process_that_is_killed_at_a_commit_is_recovered(self, tmp_path: Path) -> None:
        """Kill a process at some commits of a protect."""
        checks.check_kill_at_commits(self.subject, tmp_path)
