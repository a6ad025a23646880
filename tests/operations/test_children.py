"""Which children a protect takes along: their parent's protection plugin chooses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from helpers import DEADLINE
from karbor_actors.errors import ListingError, ParametersError
from kit import TYPE, RecordingProtection, plan, provider, thing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from karbor_actors import Resource

CHILDREN = {"server": ["disk1", "disk2", "disk3"], "disk1": ["part"]}


class Choosing(RecordingProtection):
    """Leaves out the children that its parameter ``without`` names."""

    def __init__(self, journal: Any, answer: Any = None) -> None:
        super().__init__(journal)
        self.answer = answer
        self.seen: list[tuple[str, dict[str, Any]]] = []

    @classmethod
    def get_options_schema(cls, resource_type: str) -> dict[str, Any]:
        return {
            "without": {"type": "list", "schema": {"type": "string"}, "default": []},
            "number": {"type": "integer", "coerce": int, "default": 1},
        }

    def choose_children(
        self, resource: Resource, children: Sequence[Resource], parameters: Mapping[str, Any]
    ) -> Sequence[Resource]:
        self.seen.append((resource.id, dict(parameters)))
        if self.answer is not None:
            return self.answer()
        return [child for child in children if child.id not in parameters["without"]]


@pytest.fixture
def choose(service, tmp_path, journal):
    """Protect a server with some parameters; return the checkpoint's resources and the plugin."""

    def protect(
        given: dict[str, Any], answer: Any = None, **call: Any
    ) -> tuple[list[str], Choosing]:
        plugin = Choosing(journal, answer)
        service.add_provider(provider(tmp_path / "bank", plugin, CHILDREN))
        handle = service.protect(plan("server", parameters=given), **call)
        graph = handle.result(DEADLINE).resource_graph
        return sorted(node.id for node in graph.nodes), plugin

    return protect


def test_a_child_that_is_not_chosen_is_left_out_with_all_below_it(choose, journal):
    resources, plugin = choose({TYPE: {"without": ["disk1"]}})

    assert resources == ["disk2", "disk3", "server"]
    assert {name for _, name in journal.hooks()} == set(resources)
    assert [name for name, _ in plugin.seen] == ["server"]  # nothing else has children


def test_the_choice_is_made_with_the_parents_own_valid_parameters(choose):
    given = {TYPE: {"without": ["disk2"]}, f"{TYPE}#server": {"number": "7"}}
    call = {f"{TYPE}#server": {"without": ["disk3"]}, f"{TYPE}#disk1": {"number": 3}}

    resources, plugin = choose(given, parameters=call)

    assert resources == ["disk1", "disk2", "part", "server"]
    assert plugin.seen == [
        ("server", {"without": ["disk3"], "number": 7}),
        ("disk1", {"without": ["disk2"], "number": 3}),
    ]


def test_all_that_is_wrong_with_parameters_is_said_although_no_choice_can_be_made(choose):
    with pytest.raises(ParametersError) as error:
        choose({TYPE: {"number": []}, f"{TYPE}#disk2": {"without": 3}})

    assert [fault.where for fault in error.value.faults] == [
        f"{TYPE}.number",
        f"{TYPE}#disk2.without",
    ]


def _broken() -> None:
    raise OSError("no answer")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (_broken, "no answer"),
        (lambda: 3, "returned 3, not a list"),
        (lambda: [thing("stranger")], "none of the children"),
        (lambda: ["disk1"], "none of the children"),
        (lambda: [[]], "unhashable"),
    ],
)
def test_a_choice_that_fails_ends_the_protect_and_names_the_plugin(choose, answer, reason):
    with pytest.raises(ListingError, match=reason) as error:
        choose({}, answer)

    assert error.value.plugin == "Choosing"


def test_a_choice_is_not_asked_again_by_what_uses_the_checkpoint(choose, service):
    choose({TYPE: {"without": ["disk1"]}})
    [checkpoint] = service.provider("local").bank.checkpoints()

    restored = service.restore(checkpoint.id).result(DEADLINE)
    assert {key[1] for key in restored.resources} == {"server", "disk2", "disk3"}
