"""What a host sets is refused where it is set, not by whoever needs it first."""

from __future__ import annotations

import pytest

from karbor_actors import Bank, Operation, ProtectionService, Provider, RetryPolicy, TimeLimits
from karbor_actors.errors import PluginError
from karbor_actors.limits import Caps
from kit import TYPE, RecordingProtection, plan, provider


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"time_limits": {TYPE: 5}}, "TimeLimits"),
        ({"time_limits": {"*": None}}, "TimeLimits"),
        ({"retry": {"on_main": 3}}, "RetryPolicy"),
        ({"retry": {"on_mian": RetryPolicy()}}, "names no hook"),
        ({"retry": {(TYPE, "on_mian"): RetryPolicy()}}, "names no hook"),
    ],
)
def test_a_policy_that_is_none_is_refused(tmp_path, wrong, says):
    with Bank.open(tmp_path / "bank") as bank, pytest.raises(PluginError, match=says):
        Provider("local", bank=bank, **wrong)


def test_policies_for_types_hooks_pairs_and_all_are_taken(tmp_path):
    policy = RetryPolicy(attempts=2)
    keys = (TYPE, "on_main", (TYPE, "on_complete"), "*")
    with Bank.open(tmp_path / "bank") as bank:
        made = Provider(
            "local", bank=bank, retry=dict.fromkeys(keys, policy), time_limits={"*": TimeLimits()}
        )

    assert set(made.retry) == set(keys)


@pytest.mark.parametrize("grace", [None, "x", -1, float("nan"), True])
def test_a_grace_that_is_no_number_of_seconds_is_refused(grace):
    with pytest.raises(ValueError, match="abort_grace"):
        ProtectionService(abort_grace=grace)


@pytest.mark.parametrize("workers", [0, -1, 1.5, True, "4"])
def test_workers_that_are_no_whole_number_are_refused(workers):
    with pytest.raises(ValueError, match="workers"):
        ProtectionService(workers=workers)


@pytest.mark.parametrize("groups", [5, [1], {"array": 1}, object()])
def test_cap_groups_that_are_no_names_end_their_own_operation_only(tmp_path, journal, groups):
    class Grouped(Operation):
        cap_groups = groups

        def on_main(self, checkpoint, resource, context, parameters, **kwargs):
            raise AssertionError("it must not run")

    class Plugin(RecordingProtection):
        def get_protect_operation(self, resource):
            if resource.id == "wrong":
                return Grouped()
            return super().get_protect_operation(resource)

    with ProtectionService(caps=Caps(groups={"array": 1})) as service:
        service.add_provider(provider(tmp_path / "bank", Plugin(journal)))
        with pytest.raises(PluginError, match="cap_groups"):
            service.protect(plan("wrong")).result(timeout=30)
        service.protect(plan("right")).result(timeout=30)
