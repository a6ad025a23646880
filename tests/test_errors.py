"""Every error: in the drawn tree, picklable, and one sentence for a person."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

from karbor_actors import errors
from karbor_actors.errors import Fault, KarborError, describe_cause, describe_key, describe_value

CLASSES = [
    value
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, KarborError) and not name.startswith("_")
]

SAMPLES = {
    "str": "some text",
    "int": 2,
    "float": 1.5,
    "bool": True,
    "object": None,
    "ResourceKey": ("T", "1"),
    "ResourceKey | None": ("T", "1"),
    "Sequence[str]": ("a", "b"),
    "Sequence[ResourceKey]": (("T", "1"), ("T", "2")),
    "Sequence[Fault]": (Fault("here", "is wrong"), Fault("there", "is wrong")),
    "Sequence[BaseException]": (ValueError("broken"), OSError(28, "disk full")),
}
"""An argument of each type that an error takes."""

TREE_LINE = re.compile(r"^((?:\|   |    )*)\+-- (\w+)(?: +(\w+Error)(?= |$))?")


def sample(cls):
    """Return an error of *cls* as the engine would make it."""
    init = inspect.signature(cls.__init__).parameters
    if "args" in init:  # the builtin's own: a message
        return cls("something is wrong")
    names = list(init.values())[1:]
    for parameter in names:
        assert parameter.annotation in SAMPLES, f"SAMPLES lacks {parameter.annotation}"
    return cls(*(SAMPLES[parameter.annotation] for parameter in names))


def drawn_tree():
    """Yield (class name, parent's name, builtin or None) from the module's docstring."""
    path = ["KarborError"]
    for line in errors.__doc__.splitlines():
        if match := TREE_LINE.match(line.removeprefix("    ")):
            depth = len(match[1]) // 4 + 1
            path[depth:] = [match[2]]
            yield match[2], path[depth - 1], match[3]


def is_builtin(cls):
    return cls.__module__ == "builtins"


def test_the_drawn_tree_names_every_error_once():
    drawn = [name for name, _, _ in drawn_tree()]

    assert len(set(drawn)) == len(drawn)
    assert set(drawn) == {cls.__name__ for cls in CLASSES} - {"KarborError"}


@pytest.mark.parametrize(("name", "parent", "builtin"), list(drawn_tree()))
def test_the_drawn_tree_agrees_with_the_classes(name, parent, builtin):
    cls, above = getattr(errors, name), getattr(errors, parent)
    new = {base.__name__ for base in set(cls.__mro__) - set(above.__mro__) if is_builtin(base)}

    assert issubclass(cls, above)
    assert builtin in new if builtin else not new


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_an_error_survives_pickling(cls):
    error = sample(cls)
    again = pickle.loads(pickle.dumps(error))

    assert type(again) is cls
    assert str(again) == str(error)
    assert vars(again).keys() == vars(error).keys()


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_an_error_says_one_line(cls):
    text = str(sample(cls))

    assert text
    assert "\n" not in text
    assert "object at 0x" not in text


def test_an_odd_resource_key_is_shown_in_one_printable_line():
    assert describe_key(("T", "a")) == "T#a"
    assert describe_key(("T", "a\nb\udcff")).isprintable()


def test_a_long_value_is_shown_short_and_in_one_line():
    assert len(describe_value("x" * 10_000)) < 100
    assert describe_value("short") == "'short'"
    assert len(describe_value(list(range(10_000)))) < 100


def test_a_cause_is_its_class_and_its_sentence_in_one_line():
    assert describe_cause(ValueError("two\nlines")) == "ValueError: two lines"
    assert describe_cause(ValueError()) == "ValueError"
    assert describe_cause(errors.BankClosedError()) == "the bank is closed"


def test_a_long_cycle_is_shown_by_its_ends():
    error = errors.CycleError([("T", str(n)) for n in range(1000)])

    assert len(str(error)) < 200
    assert "T#0" in str(error)
    assert "T#999 -> T#0" in str(error)
    assert len(error.cycle) == 1000


def test_faults_are_all_in_the_sentence():
    error = errors.PlanError([Fault("name", "is missing"), Fault("resources", "names no resource")])

    assert str(error) == ("the plan is not valid: name: is missing; resources: names no resource")


def test_a_lookup_that_had_no_resource_is_told_without_one():
    assert str(errors.ListingError(None, "Disks", "no route")) == (
        "Disks could not list resources: no route"
    )


def test_a_very_long_sentence_is_its_ends_and_how_much_is_missing():
    said = describe_cause(ValueError("begin " + "x" * 100_000 + " end"))

    assert said.startswith("ValueError: begin xxx")
    assert said.endswith("xxx end")
    assert f"{100_010 - 4096} characters left out" in said
    assert len(said) < 4200


def test_a_cause_that_is_no_text_is_said_in_text():
    assert describe_cause(ValueError("a\udcffb\ud800")) == r"ValueError: a\udcffb\ud800"
