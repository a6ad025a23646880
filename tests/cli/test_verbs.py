"""Each command on real data, as a person and as a program reads it."""

from __future__ import annotations

import filecmp
import json
import os
import sqlite3
from contextlib import closing

import pytest


def rows(path):
    with closing(sqlite3.connect(path)) as database:
        return database.execute("SELECT name FROM rows").fetchall()


def test_a_directory_goes_through_all_five_operations(cli, tmp_path, app):
    protected = cli("protect", "app", "--bank", "bank")
    listed = cli("checkpoints", "list", "--bank", "bank").out.splitlines()
    checkpoint = listed[1].split()[0]
    assert len(listed) == 2
    assert f"checkpoint {checkpoint}: available, 2 resources" in protected.out

    shown = cli("checkpoints", "show", checkpoint[:6], "--bank", "bank").out
    assert f"FileSystem::Directory#{app}  available" in shown
    assert f"└─ SQLite::Database#{app}/rows.db  available" in shown

    assert "is good" in cli("verify", checkpoint, "--bank", "bank").out
    restored = cli("restore", checkpoint, "--bank", "bank", "--target", "new").out
    assert str(tmp_path / "new" / "rows.db") in restored
    names = ["hello.txt", "random.bin"]
    assert filecmp.cmpfiles(app, tmp_path / "new", names, shallow=False) == (names, [], [])
    assert rows(tmp_path / "new" / "rows.db") == [("one",), ("two",)]

    cli("copy", checkpoint, "--bank", "bank", "--to-bank", "other")
    [copied] = cli("checkpoints", "list", "--bank", "other", "--json").document
    assert copied["copied_from"] == checkpoint

    assert "deleted" in cli("delete", checkpoint, "--bank", "bank", "--yes").out
    assert "no checkpoints" in cli("checkpoints", "list", "--bank", "bank").err
    cli("verify", copied["id"], "--bank", "other")
    kinds = [
        line.split()[1] for line in cli("operations", "list", "--bank", "bank").out.splitlines()
    ]
    assert kinds == ["TYPE", "delete", "copy", "restore", "verify", "protect"]


def test_each_operation_prints_one_document_for_machines(cli, app):
    arguments = ("--bank", "bank", "--json")
    protected = cli("protect", "app", *arguments).document
    checkpoint = protected["result"]["id"]
    verified = cli("verify", checkpoint, *arguments).document
    restored = cli("restore", checkpoint, "--target", "new", *arguments).document
    deleted = cli("delete", checkpoint, "--yes", *arguments).document

    documents = (protected, verified, restored, deleted)
    assert [document["operation"]["type"] for document in documents] == [
        "protect",
        "verify",
        "restore",
        "delete",
    ]
    assert {document["operation"]["status"] for document in documents} == {"succeeded"}
    assert {one["status"] for one in verified["result"]["resources"]} == {"verified"}
    assert verified["result"]["resources"][0]["bytes"] > 300_000
    assert [one["type"] for one in restored["result"]["new_resources"]] == [
        "FileSystem::Directory",
        "SQLite::Database",
    ]
    assert deleted["result"] is None


def test_a_plan_file_names_paths_beside_itself_and_parameters(cli, tmp_path, app):
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans" / "nightly.toml").write_text(
        'name = "nightly"\n[[resources]]\ntype = "FileSystem::Directory"\nid = "../app"\n'
        '[parameters."FileSystem::Directory#../app"]\nexclude = ["*.bin"]\n'
    )
    checkpoint = cli.protect("plans/nightly.toml")
    cli("restore", checkpoint, "--bank", "bank", "--target", "new")

    assert sorted(os.listdir(tmp_path / "new")) == ["hello.txt", "rows.db"]
    listed = cli("checkpoints", "list", "--bank", "bank", "--plan", "nightly", "--json").document
    assert [one["id"] for one in listed] == [checkpoint]
    assert cli("checkpoints", "list", "--bank", "bank", "--plan", "x", "--json").document == []


def test_parameters_of_the_command_line_lie_over_those_of_files(cli, tmp_path, app):
    (tmp_path / "parameters.toml").write_text(
        '["FileSystem::Directory"]\nexclude = ["*.txt"]\natime = true\n'
    )
    options = ["--parameters", "parameters.toml", "-p", 'FileSystem::Directory.exclude=["*.bin"]']
    document = cli("plan", "check", "app", *options, "--json").document

    [directory, _] = [resource["parameters"] for resource in document["resources"]]
    assert directory["exclude"] == ["*.bin"]
    assert directory["atime"] is True


def test_plan_check_shows_the_graph_and_the_order_and_makes_no_bank(cli, tmp_path, app):
    finished = cli("plan", "check", "app", "--bank", "bank")

    assert f"  FileSystem::Directory#{app}\n  └─ SQLite::Database#{app}/rows.db" in finished.out
    assert finished.out.index("1. on_prepare_begin") < finished.out.index("2. on_main")
    assert not (tmp_path / "bank").exists()


def test_plan_check_of_many_resources_counts_them(cli, app):
    for number in range(60):
        with closing(sqlite3.connect(app / f"{number}.db")) as database:
            database.execute("CREATE TABLE rows (name)")
    counted = cli("plan", "check", "app").out
    whole = cli("plan", "check", "app", "--all").out

    assert "61 SQLite::Database" in counted
    assert "59.db" not in counted
    assert whole.count("59.db") == 2  # once in the graph, once in the order


def test_providers_of_a_configuration_are_found_by_their_checkpoints(cli, tmp_path, app):
    (tmp_path / "karbor.toml").write_text(
        '[[provider]]\nname = "here"\nbank = "one"\n[[provider]]\nname = "there"\nbank = "two"\n'
    )
    config = ("--config", "karbor.toml")
    assert "--provider: here, there" in cli.fails(2, "protect", "app", *config)
    cli("protect", "app", *config, "--provider", "here")
    assert "there is no bank in" in cli.fails(5, "checkpoints", "list", *config)
    cli("protect", "app", *config, "--provider", "there")
    listed = cli("checkpoints", "list", *config, "--json").document
    assert sorted(one["provider"] for one in listed) == ["here", "there"]
    for one in listed:
        cli("verify", one["id"], *config)
    [first] = [one["id"] for one in listed if one["provider"] == "here"]
    cli("copy", first, *config, "--to", "there")
    cli("copy", first, *config, "--to", "there")
    assert len(cli("checkpoints", "list", *config, "--provider", "there", "--json").document) == 2
    assert "own bank" in cli.fails(2, "copy", first, *config, "--to", "here")


@pytest.mark.parametrize("place", ["bank", "link", "bank/inside", "link/inside"])
def test_a_copy_does_not_go_into_its_own_bank_however_that_is_named(cli, tmp_path, app, place):
    checkpoint = cli.protect("app")
    (tmp_path / "link").symlink_to(tmp_path / "bank")

    assert "own bank" in cli.fails(2, "copy", checkpoint, "--bank", "bank", "--to-bank", place)
    assert not (tmp_path / "bank" / "inside").exists()


def test_a_plan_of_many_paths_says_of_how_many(cli, tmp_path):
    paths = [f"d{number:04}" for number in range(1002)]
    for path in paths:
        (tmp_path / path).mkdir()

    def name_of(*given):
        return cli("plan", "check", *given, "--json").document["plan"]["name"]

    assert name_of(*paths) == "d0000 and 1,001 more"
    assert name_of(*paths[:2]) == "d0000 and 1 more"
    assert name_of(paths[0], paths[0]) == "d0000"


def test_the_bank_may_come_from_the_environment(cli, app):
    cli.environment = {**cli.environment, "KARBOR_ACTORS_BANK": "bank"}
    cli("protect", "app")

    assert "app" in cli("checkpoints", "list").out


def test_a_delete_asks_first_and_takes_nobody_for_a_no(cli, app):
    checkpoint = cli.protect("app")

    assert "--yes" in cli.fails(2, "delete", checkpoint, "--bank", "bank")
    assert checkpoint in cli("checkpoints", "list", "--bank", "bank").out


def test_odd_names_are_protected_and_never_printed_raw(cli, tmp_path):
    names = [b"not-\xff-utf8", b"new\nline", b"\x1b[31mred", b"[bold]markup", b"-dash"]
    folders = [os.fsencode(tmp_path) + b"/" + name for name in names]
    for folder in folders:
        os.mkdir(folder)
        with closing(sqlite3.connect(folder + b"/rows.db")) as database:
            database.execute("CREATE TABLE rows (name)")
            database.commit()
    checkpoint = cli.protect(*(b"./" + name for name in names))

    for command in (["checkpoints", "show", checkpoint], ["verify", checkpoint]):
        finished = cli(*command, "--bank", "bank")
        assert "\x1b" not in finished.out + finished.err
        for name in names:
            assert ascii(os.fsdecode(name))[1:-1] in finished.out
    [listed] = cli("checkpoints", "list", "--bank", "bank", "--json").document
    found = [os.fsencode(resource["id"]) for resource in listed["plan"]["resources"]]
    assert found == folders


def test_times_are_iso_8601_for_machines(cli, app):
    cli.protect("app")
    [listed] = cli("checkpoints", "list", "--bank", "bank", "--json").document
    [operation] = cli("operations", "list", "--bank", "bank", "--json").document

    for moment in (listed["created_at"], operation["created_at"], operation["ended_at"]):
        assert moment.endswith("+00:00")


def test_checkpoints_are_listed_by_date(cli, app):
    checkpoint = cli.protect("app")
    options = ("--bank", "bank", "--json")

    assert cli("checkpoints", "list", "--since", "2999-01-01", *options).document == []
    [found] = cli("checkpoints", "list", "--until", "2999-01-01", *options).document
    assert found["id"] == checkpoint


def test_progress_may_be_lines_of_json(cli, app):
    finished = cli("protect", "app", "--bank", "bank", "--progress", "json")
    events = [json.loads(line) for line in finished.err.splitlines()]

    assert {"hook_started", "hook_completed", "ended"} <= {event["event"] for event in events}
    assert "available" in finished.out


def test_an_operation_is_shown_with_what_went_wrong(cli, app):
    checkpoint = cli.protect("app")
    cli("restore", checkpoint, "--bank", "bank", code=8)
    [failed, _] = cli("operations", "list", "--bank", "bank", "--json").document
    shown = cli("operations", "show", failed["id"][:8], "--bank", "bank").out

    assert "status:     failed" in shown
    assert "not empty" in shown


def test_a_sound_bank_is_said_to_be_and_a_damaged_one_not(cli, tmp_path, app):
    cli.protect("app")
    assert "is sound" in cli("bank", "check", "--bank", "bank").out
    assert "is sound" in cli("bank", "check", "--deep", "--bank", "bank").out
    information = cli("bank", "info", "--bank", "bank", "--json").document
    assert information["checkpoints"] == 1
    assert not {"writable", "epoch"} & information.keys()  # of the reader, not of the bank
    packs = [path for path in (tmp_path / "bank" / "objects").rglob("*") if path.is_file()]
    packs[0].unlink()

    finished = cli("bank", "check", "--deep", "--bank", "bank", "--json", code=11)
    assert finished.document["findings"]


def test_plugins_are_listed_with_their_types_and_schemas(cli):
    listed = cli("plugins", "list").out
    shown = cli("plugins", "show", "filesystem").out
    document = cli("plugins", "show", "sqlite", "--json").document

    assert "filesystem  protection, protectable  FileSystem::Directory" in listed
    assert "FileSystem::Directory, parameters of restore:" in shown
    assert "target " in shown
    assert document["schemas"]["SQLite::Database"]["restore"]["target"]["type"] == "string"
    assert "known: " in cli.fails(4, "plugins", "show", "nope")


@pytest.mark.parametrize("plugin", ["filesystem", "sqlite"])
def test_every_field_of_the_plugins_has_a_meaning(cli, plugin):
    document = cli("plugins", "show", plugin, "--json").document
    shown = cli("plugins", "show", plugin).out

    assert "function" not in str(document["schemas"])
    for schemas in document["schemas"].values():
        assert {"protect", "restore", "saved"} <= schemas.keys()
        for schema in schemas.values():
            for name, rules in schema.items():
                assert rules["meta"]["description"] in shown, name


def test_a_reader_that_goes_away_is_no_error(cli, app):
    cli.protect("app")
    with cli.start("plugins", "show", "filesystem") as process:
        process.stdout.close()
        err = process.stderr.read()

    assert process.returncode == 141
    assert err == ""


def test_a_shell_can_complete_commands(cli):
    cli.environment = {
        **cli.environment,
        "_KARBOR_ACTORS_COMPLETE": "bash_complete",
        "COMP_WORDS": "karbor-actors ver",
        "COMP_CWORD": "1",
    }

    assert cli(code=None).out == "plain,verify\n"


def test_every_command_has_help(cli):
    top = cli("--help").out
    for group in ("plan", "checkpoints", "operations", "plugins", "bank"):
        assert group in top
        assert "Commands:" in cli(group, "--help").out
    for command in ("demo", "protect", "restore", "verify", "copy", "delete"):
        assert "--json" in cli(command, "--help").out


def test_no_colour_reaches_a_pipe(cli, app):
    assert "\x1b" not in cli("protect", "app", "--bank", "bank").out


def test_the_version_is_printed(cli):
    assert cli("--version").out.startswith("karbor-actors ")


def test_what_is_verified_of_a_partial_checkpoint_is_not_called_all_of_it(cli, app):
    (app / "bad.db").write_bytes(b"SQLite format 3\0" + os.urandom(3000))
    paths = ("app/rows.db", "app/bad.db")
    cli("protect", *paths, "--bank", "bank", "--on-failure", "isolate", code=9)
    [checkpoint] = cli("checkpoints", "list", "--bank", "bank", "--json").document

    verified = cli("verify", checkpoint["id"], "--bank", "bank").out
    options = ("--allow-partial", "-p", "SQLite::Database.overwrite=true")
    restored = cli("restore", checkpoint["id"], "--bank", "bank", *options).out

    assert f"what there is of the partial checkpoint {checkpoint['id']} is good" in verified
    assert "restored: 1 available, 1 aborted" in restored


def things(tmp_path, **saved):
    """Make directories of which *saved* says what the plugin for tests saves; return their paths."""
    for name, what in saved.items():
        (tmp_path / name).mkdir(exist_ok=True)
        for file in ("finish", *what):
            (tmp_path / name / file).touch()
    return [str(tmp_path / name) for name in saved]


def test_what_saved_nothing_is_said_by_protect_copy_and_show(cli, tmp_path, slow_config):
    full, idle = things(tmp_path, full=["record"], idle=[])
    options = ("--config", "slow.toml")
    protected = cli("protect", full, idle, *options)
    [checkpoint] = cli("checkpoints", "list", *options, "--json").document
    shown = cli("checkpoints", "show", checkpoint["id"], *options).out
    copied = cli("copy", checkpoint["id"], "--to-bank", "other", *options)
    document = cli("copy", checkpoint["id"], "--to-bank", "other", *options, "--json").document

    for finished in (protected, copied):
        assert f"Test::Thing#{idle} is empty: nothing of it was saved" in finished.out
        assert "available, 2 resources (1 empty)" in finished.out
        assert f"#{full} is" not in finished.out
    assert f"Test::Thing#{idle}  empty" in shown
    assert [one["status"] for one in document["result"]["resources"]] == ["available", "empty"]


def test_what_nobody_verified_is_no_good_checkpoint(cli, tmp_path, slow_config):
    full, outside = things(tmp_path, full=["record"], outside=["snapshot"])
    options = ("--config", "slow.toml")
    document = cli("protect", full, outside, *options, "--json").document
    checkpoint = document["result"]["id"]
    finished = cli("verify", checkpoint, *options, code=9)
    alone = cli("protect", outside, *options, "--json").document["result"]["id"]
    shown = cli("checkpoints", "show", alone, *options).out

    assert {one["status"] for one in document["result"]["resources"]} == {"available"}
    assert f"what was verified of checkpoint {checkpoint} is good, but not all" in finished.out
    assert "skipped" in finished.out
    assert f"#{outside}  available, crash consistent (a snapshot)" in shown
    assert "nothing was verified" in cli.fails(8, "verify", alone, *options)
    assert "no plugin has a restore operation" in cli.fails(8, "restore", alone, *options)


def test_what_is_held_is_not_deleted_until_it_is_released(cli, app):
    checkpoint, bank = cli.protect("app"), ("--bank", "bank")
    cli("checkpoints", "hold", checkpoint[:6], "--reason", "an audit", *bank)
    held = cli("checkpoints", "hold", checkpoint, "--reason", "a trial", *bank, "--json")
    refused = cli.fails(7, "delete", checkpoint, "--yes", *bank)
    one = cli("checkpoints", "release", checkpoint, "--reason", "a trial", *bank).out
    released = cli("checkpoints", "release", checkpoint, *bank).out
    cli("delete", checkpoint, "--yes", *bank)

    assert held.document["holds"] == ["an audit", "a trial"]
    assert "held for 'an audit', 'a trial'; release it first" in refused
    assert f"checkpoint {checkpoint} is held for an audit" in one
    assert f"checkpoint {checkpoint} is not held" in released
