"""Bad input: one line that says what to do, the stated exit code, no traceback, nothing lost."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
import sys
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import lmdb
import pytest

from helpers import DEADLINE, fill

if TYPE_CHECKING:
    from pathlib import Path

PLAN = 'name = "nightly"\n[[resources]]\ntype = "FileSystem::Directory"\nid = "{}"\n'


def test_a_plan_that_names_a_missing_path_fails_before_anything_runs(cli, tmp_path):
    (tmp_path / "plan.toml").write_text(PLAN.format("./nowhere"))

    for command in (["plan", "check"], ["protect", "--bank", "bank"]):
        error = cli.fails(4, *command, "plan.toml")
        assert f"FileSystem::Directory#{tmp_path}/nowhere does not exist" in error
    assert not (tmp_path / "bank").exists()


def test_a_relative_path_in_a_plan_is_told_how_to_be_written(cli, tmp_path, app):
    (tmp_path / "plan.toml").write_text(PLAN.format("app"))

    assert "./PATH for one beside the plan" in cli.fails(4, "plan", "check", "plan.toml")


def test_a_missing_path_on_the_command_line_leaves_no_bank(cli, tmp_path):
    assert "nothing is at that path" in cli.fails(4, "protect", "--bank", "bank", "nowhere")
    assert not (tmp_path / "bank").exists()


def test_a_path_that_no_plugin_finds_says_what_could_be_found(cli, tmp_path):
    (tmp_path / "notes.txt").write_text("no database")

    error = cli.fails(4, "protect", "--bank", "bank", "notes.txt")
    assert "does not exist" not in error
    assert "FileSystem::Directory, SQLite::Database" in error


@pytest.mark.parametrize(
    "command",
    [
        ["checkpoints", "list", "--bank", ""],
        ["protect", "app", "--bank", ""],
        ["restore", "0", "--bank", "bank", "--target", ""],
        ["copy", "0", "--bank", "bank", "--to-bank", ""],
        ["checkpoints", "list", "--config", ""],
    ],
)
def test_an_empty_option_is_not_the_current_directory(cli, app, command):
    assert f"'{command[-2]}'" in (error := cli.fails(2, *command))
    assert "it is empty; name a directory or a file" in error


NUL_PLAN = 'name = "nightly"\n[[resources]]\ntype = "{}"\nid = "{}"\n'


@pytest.mark.parametrize("kind", ["FileSystem::Directory", "SQLite::Database"])
@pytest.mark.parametrize("path", ["./app\\u0000", "/app\\u0000", "/app\\u0000/x"])
def test_an_id_with_a_nul_is_told_that_it_is_no_path(cli, tmp_path, app, kind, path):
    (tmp_path / "plan.toml").write_text(NUL_PLAN.format(kind, path))

    for command in (["plan", "check"], ["protect", "--bank", "bank"]):
        assert "no path holds NUL; correct the plan" in cli.fails(4, *command, "plan.toml")


def test_a_nul_in_other_paths_is_told_so(cli, tmp_path, app):
    (tmp_path / "nul.toml").write_text('[[provider]]\nname = "a"\nbank = "b\\u0000"\n')
    error = cli.fails(3, "checkpoints", "list", "--config", "nul.toml")
    assert "provider[0].bank: holds NUL, which no path does" in error

    checkpoint = cli.protect("app")
    for kind in ("FileSystem::Directory", "SQLite::Database"):
        parameter = f'{kind}.target="/x\\u0000"'
        error = cli.fails(3, "restore", checkpoint, "--bank", "bank", "-p", parameter)
        assert f"{kind}.target: holds NUL, which no path does" in error


def test_a_current_directory_that_was_deleted_is_told_so(cli, tmp_path, app):
    gone = tmp_path / "gone"
    for command in (["checkpoints", "list"], ["protect", str(app)]):
        gone.mkdir()
        error = cli.fails(5, *command, "--bank", "b", cwd=gone, preexec_fn=partial(os.rmdir, gone))
        assert "the current directory was deleted; change to one that exists" in error


def test_a_long_id_is_shown_by_its_ends(cli):
    error = cli.fails(4, "protect", "--bank", "bank", "/" + "a" * 100_000)

    assert "aaa...aaa" in error
    assert "does not exist: nothing is at that path" in error
    assert len(error) < 10_000


def test_too_little_address_space_is_not_a_wrong_directory(cli, app):
    cli.protect("app")
    size = 700 << 20  # the records' map alone has 1 GiB
    limit = partial(resource.setrlimit, resource.RLIMIT_AS, (size, size))

    error = cli.fails(5, "checkpoints", "list", "--bank", "bank", preexec_fn=limit)
    assert "no memory or address space" in error
    assert "--bank" not in error


def test_a_malformed_plan_lists_every_fault(cli, tmp_path):
    (tmp_path / "plan.toml").write_text('name = ""\nfoo = 1\n[[resources]]\ntype = "a/b"\nid = 3\n')

    error = cli.fails(3, "plan", "check", "plan.toml")
    for fault in ("plan.toml: foo: ", "name: ", "resources[0].type: ", "resources[0].id: "):
        assert fault in error


def test_a_plan_that_is_no_toml_says_so(cli, tmp_path):
    (tmp_path / "plan.toml").write_bytes(b"name = \xff")

    assert "plan.toml: is no TOML" in cli.fails(3, "plan", "check", "plan.toml")


def test_a_missing_plan_file_says_so(cli):
    assert "plan.toml: cannot be read" in cli.fails(3, "protect", "plan.toml", "--bank", "bank")


def test_a_malformed_configuration_lists_every_fault(cli, tmp_path, app):
    (tmp_path / "karbor.toml").write_text(
        'color = 1\n[[provider]]\nname = 3\nbank = ""\nprotectables = [1]\nfoo = 2\n'
    )

    error = cli.fails(3, "protect", "app", "--config", "karbor.toml")
    for fault in ("color", "provider[0].name", "[0].bank", "[0].protectables", "[0].foo"):
        assert fault in error


def test_an_unknown_plugin_names_those_that_are_known(cli, tmp_path, app):
    (tmp_path / "karbor.toml").write_text(
        '[[provider]]\nname = "a"\nbank = "bank"\nprotection_plugins = ["nope"]\n'
    )

    error = cli.fails(4, "protect", "app", "--config", "karbor.toml")
    assert "'nope'" in error
    assert "filesystem" in error


def test_a_bank_that_is_a_file_is_refused_and_left_alone(cli, tmp_path, app):
    (tmp_path / "bank").write_text("precious")

    for command in (["protect", "app"], ["checkpoints", "list"], ["bank", "check"]):
        assert "--bank" in cli.fails(5, *command, "--bank", "bank")
    assert (tmp_path / "bank").read_text() == "precious"


def test_a_bank_that_is_missing_is_made_by_protect_only(cli, tmp_path, app):
    for command in (["checkpoints", "list"], ["verify", "abc"], ["delete", "abc", "--yes"]):
        assert "bank" in cli.fails(5, *command, "--bank", "bank")
    assert not (tmp_path / "bank").exists()
    cli.protect("app")


def test_a_bank_of_another_format_is_refused_and_left_alone(cli, tmp_path, app):
    data = tmp_path / "bank" / "bank.lmdb" / "data.mdb"
    data.parent.mkdir(parents=True)
    data.write_bytes(b"no LMDB at all" * 1000)

    for command in (["protect", "app"], ["checkpoints", "list"]):
        cli.fails(5, *command, "--bank", "bank")
    assert data.read_bytes() == b"no LMDB at all" * 1000


def test_somebody_elses_lmdb_is_refused_and_left_alone(cli, tmp_path, app):
    folder = tmp_path / "bank" / "bank.lmdb"
    folder.mkdir(parents=True)
    with lmdb.open(str(folder)) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"their", b"value")

    for command in (["protect", "app"], ["checkpoints", "list"]):
        cli.fails(5, *command, "--bank", "bank")
    with lmdb.open(str(folder)) as environment, environment.begin() as transaction:
        assert transaction.get(b"their") == b"value"


@pytest.mark.parametrize("kept", [0, 100, 20_000])
def test_a_truncated_bank_is_refused_with_what_is_left_of_it(cli, tmp_path, app, kept):
    cli.protect("app")
    data = tmp_path / "bank" / "bank.lmdb" / "data.mdb"
    os.truncate(data, kept)
    left = data.read_bytes()

    for command in (["checkpoints", "list"], ["protect", "app"]):
        cli.fails(5, *command, "--bank", "bank")
    assert data.read_bytes() == left


def _mount(place: Path, *options: str) -> bool:
    command = ["mount", "-t", "tmpfs", *options, "tmpfs", str(place)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if not _mount(place, "-o", "size=4m"):
        pytest.skip("mounting takes more rights than this run has")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_loses_nothing(cli, small_disk, app):
    first = cli.protect("app", bank="disk/bank")
    (app / "large").write_bytes(os.urandom(8 << 20))

    assert "free some" in cli.fails(10, "protect", "app", "--bank", "disk/bank")
    assert first in cli("checkpoints", "list", "--bank", "disk/bank", "--status", "available").out
    (app / "large").unlink()
    cli("verify", first, "--bank", "disk/bank")
    cli.protect("app", bank="disk/bank")


@pytest.mark.parametrize("size", [300, 400_000])
def test_a_bank_that_has_filled_its_disk_can_be_emptied(cli, small_disk, app, size):
    where = ("--bank", "disk/bank")
    for name in ("one", "two", "three"):
        (app / name).write_bytes(os.urandom(size))
        cli.protect("app", bank="disk/bank")
    fill(small_disk / "filler")
    (app / "four").write_bytes(os.urandom(100_000))
    cli.fails(10, "protect", "app", *where)

    left = cli("checkpoints", "list", *where, "--json").document
    assert len(left) >= 3
    for checkpoint in left:
        cli("delete", checkpoint["id"], *where, "--yes")
    assert cli("checkpoints", "list", *where, "--json").document == []
    (small_disk / "filler").unlink()
    cli.protect("app", bank="disk/bank")
    cli("bank", "check", "--deep", *where)


def test_a_disk_that_is_full_from_the_start_is_said_to_be(cli, small_disk, app):
    with pytest.raises(OSError, match="No space"):
        (small_disk / "filler").write_bytes(bytes(8 << 20))

    assert "free some" in cli.fails(10, "protect", "app", "--bank", "disk/bank")


def test_a_full_restore_target_is_a_full_disk_too(cli, small_disk, app):
    (app / "large").write_bytes(os.urandom(8 << 20))
    checkpoint = cli.protect("app")

    cli.fails(10, "restore", checkpoint, "--bank", "bank", "--target", "disk/restored")
    assert not (small_disk / "restored").exists(), "what was begun is undone"


def test_a_limit_on_file_sizes_counts_as_a_full_disk(cli, tmp_path, app):
    (app / "large").write_bytes(os.urandom(4 << 20))
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    cli.fails(10, "protect", "app", "--bank", "bank", preexec_fn=limit)
    cli.protect("app")


def test_a_full_standard_output_is_an_error(cli, app):
    cli.protect("app")
    with open("/dev/full", "w", encoding="utf-8") as full:
        finished = cli("checkpoints", "list", "--bank", "bank", code=10, stdout=full)

    assert finished.errors == ["error: could not print: No space left on device"]


@pytest.mark.parametrize("how", [[], ["--json"]])
def test_what_was_made_is_said_although_the_result_could_not_be_printed(cli, app, how):
    with open("/dev/full", "w", encoding="utf-8") as full:
        finished = cli("protect", "app", "--bank", "bank", *how, code=10, stdout=full)

    [made] = cli("checkpoints", "list", "--bank", "bank", "--json").document
    [error] = finished.errors
    assert f"could not print: No space left on device; it is done: checkpoint {made['id']}" in error


def test_a_read_only_bank_can_be_read_but_not_written(cli, tmp_path, app):
    checkpoint = cli.protect("app", bank="disk/bank")
    place = tmp_path / "readonly"
    place.mkdir()
    if not _mount(place):
        pytest.skip("mounting takes more rights than this run has")
    try:
        shutil.copytree(tmp_path / "disk", place, dirs_exist_ok=True)
        command = ["mount", "-o", "remount,ro", str(place)]
        subprocess.run(command, check=True)

        error = cli.fails(5, "protect", "app", "--bank", "readonly/bank")
        assert "Read-only file system" in error
        assert checkpoint in cli("checkpoints", "list", "--bank", "readonly/bank").out
        cli("verify", checkpoint, "--bank", "readonly/bank", "--readonly")
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_bank_that_somebody_owns_names_the_owner(cli, tmp_path, environment, app):
    checkpoint = cli.protect("app")
    script = (
        "import sys; from karbor_actors import Bank\n"
        "with Bank.open('bank'): print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as owner:
        owner.stdout.readline()
        error = cli.fails(5, "protect", "app", "--bank", "bank")
        for part in (f"process {owner.pid} on {socket.gethostname()} (", ", since 20", "stop it"):
            assert part in error
        assert "--readonly" in cli.fails(5, "verify", checkpoint, "--bank", "bank")
        assert checkpoint in cli("checkpoints", "list", "--bank", "bank").out
        cli("operations", "list", "--bank", "bank")
        cli("bank", "check", "--bank", "bank")
        cli("verify", checkpoint, "--bank", "bank", "--readonly")
        cli("restore", checkpoint, "--bank", "bank", "--readonly", "--target", "elsewhere")
        owner.communicate(timeout=DEADLINE)

    assert (tmp_path / "elsewhere" / "hello.txt").read_text() == "hello"
    history = cli("operations", "list", "--bank", "bank", "--json").document
    assert [operation["type"] for operation in history] == ["protect"]


def _damage_blocks(bank: Path) -> None:
    packs = [path for path in (bank / "objects").rglob("*") if path.is_file()]
    largest = max(packs, key=lambda path: path.stat().st_size)
    with largest.open("r+b") as file:
        file.seek(50_000)
        file.write(bytes(1000))


def test_a_corrupted_block_is_named_and_nothing_is_restored(cli, tmp_path, app):
    checkpoint = cli.protect("app")
    _damage_blocks(tmp_path / "bank")

    for command in (["verify"], ["restore", "--target", "restored"]):
        error = cli.fails(11, *command, checkpoint, "--bank", "bank")
        assert "block" in error
        assert "use another checkpoint" in error
    assert not (tmp_path / "restored").exists()


def test_a_restore_without_what_is_damaged_says_what_is_missing(cli, tmp_path, app):
    checkpoint = cli.protect("app")
    _damage_blocks(tmp_path / "bank")
    skip = ["-p", "FileSystem::Directory.damaged=skip", "--bank", "bank"]

    restored = cli("restore", checkpoint, *skip, "--target", "new", code=9)
    assert f"1 file is not restored, since the data is damaged: {tmp_path}/new/random.bin" in (
        restored.out
    )
    assert sorted(os.listdir(tmp_path / "new")) == ["hello.txt", "rows.db"]
    document = cli("restore", checkpoint, *skip, "--target", "2", "--json", code=9).document
    [report] = document["result"]["reports"]
    assert (report["id"], report["status"]) == (str(tmp_path / "2"), "incomplete")


def test_a_verify_that_fails_shows_what_it_found_all_the_same(cli, tmp_path, app):
    checkpoint = cli.protect("app")
    _damage_blocks(tmp_path / "bank")

    assert "failed" in cli("verify", checkpoint, "--bank", "bank", code=11).out
    document = cli("verify", checkpoint, "--bank", "bank", "--json", code=11).document
    statuses = {one["type"]: one["status"] for one in document["result"]["resources"]}
    assert statuses == {"FileSystem::Directory": "failed", "SQLite::Database": "verified"}
    assert document["error"]["exit_code"] == 11


def test_a_missing_object_is_damage(cli, tmp_path, app):
    checkpoint = cli.protect("app")
    for path in (tmp_path / "bank" / "objects").rglob("*"):
        if path.is_file():
            path.unlink()

    cli.fails(11, "verify", checkpoint, "--bank", "bank")


@pytest.mark.parametrize(
    ("assignment", "wanted"),
    [
        ("FileSystem::Directory.exclude=3", "must be a list"),
        ("FileSystem::Directory.nope=3", "FileSystem::Directory.nope"),
        ("Other::Type.field=3", "Other::Type"),
        ("FileSystem::Directory#/elsewhere.atime=true", "/elsewhere"),
        ("nonsense", "TYPE.FIELD=VALUE"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(cli, tmp_path, app, assignment, wanted):
    assert wanted in cli.fails(3, "plan", "check", "app", "-p", assignment)


def test_parameters_of_the_wrong_type_fail_before_anything_is_stored(cli, app):
    assignment = "FileSystem::Directory.exclude=3"
    error = cli.fails(3, "protect", "app", "--bank", "bank", "-p", assignment)

    assert "must be a list" in error
    assert cli("checkpoints", "list", "--bank", "bank", "--json").document == []


def test_a_checkpoint_that_does_not_exist_says_where_to_look(cli, app):
    cli.protect("app")

    for command in (["restore"], ["verify"], ["delete", "--yes"], ["checkpoints", "show"]):
        error = cli.fails(6, *command, "feedbeef", "--bank", "bank")
        assert "checkpoints list" in error


def test_an_id_that_fits_several_checkpoints_lists_them(cli, app):
    found = {cli.protect("app")}
    while not (shared := [one for one in found if sum(o[0] == one[0] for o in found) > 1]):
        found.add(cli.protect("app"))

    error = cli.fails(6, "verify", shared[0][0], "--bank", "bank")
    assert all(one in error for one in shared)
    assert "give more of the id" in error


def test_an_id_that_fits_several_operations_lists_them(cli, app):
    for _ in range(17):  # two begin alike, whatever the digits are
        cli.protect("app")
    listed = cli("operations", "list", "--bank", "bank", "--json").document
    ids = sorted(one["id"] for one in listed)
    first, second = next(pair for pair in pairwise(ids) if pair[0][0] == pair[1][0])

    for command in ("show", "abort", "resume"):
        error = cli.fails(6, "operations", command, first[0], "--bank", "bank")
        assert first in error
        assert second in error
        assert error.endswith("give more of the id")


def test_an_operation_that_does_not_exist_says_where_to_look(cli, app):
    cli.protect("app")

    assert "operations list" in cli.fails(6, "operations", "show", "nope", "--bank", "bank")


def test_a_plan_for_an_unknown_provider_names_the_known_ones(cli, tmp_path, app):
    (tmp_path / "plan.toml").write_text('provider = "other"\n' + PLAN.format("./app"))

    assert "known: local" in cli.fails(6, "protect", "plan.toml", "--bank", "bank")


def test_a_restore_into_what_is_there_changes_nothing(cli, tmp_path, app):
    checkpoint = cli.protect("app")
    (app / "hello.txt").write_text("changed since")

    assert "not empty" in cli.fails(8, "restore", checkpoint, "--bank", "bank")
    assert (app / "hello.txt").read_text() == "changed since"


def test_a_failed_checkpoint_cannot_be_restored(cli, slow_config, tmp_path):
    finished = cli(
        "protect", "thing", "--config", "slow.toml", "--timeout", "0.2", "--json", code=8
    )
    assert finished.document["error"]["class"] == "OperationError"
    [checkpoint] = cli("checkpoints", "list", "--config", "slow.toml", "--json").document

    error = cli.fails(7, "restore", checkpoint["id"], "--config", "slow.toml")
    assert "is error" in error


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["verify"],
        ["verify", "abc", "--bogus"],
        ["checkpoints", "list"],
        ["protect", "app", "--workers", "0"],
        ["copy", "abc", "--bank", "bank"],
        ["checkpoints", "list", "--bank", "bank", "--since", "yesterday"],
    ],
)
def test_wrong_usage_is_one_line_too(cli, app, arguments):
    error = cli.fails(2, *arguments)

    assert "--help" in error or "--bank" in error


def test_a_group_without_a_command_shows_its_help(cli):
    assert "list" in cli("checkpoints", code=2).err


def test_an_error_is_a_document_for_machines(cli, app):
    cli.protect("app")
    document = cli("verify", "nope", "--bank", "bank", "--json", code=6).document

    assert document["error"]["class"] == "CheckpointNotFoundError"
    assert document["error"]["data"] == {"checkpoint_id": "nope"}
    assert document["error"]["exit_code"] == 6


def test_wrong_usage_is_a_document_for_machines(cli):
    assert cli("verify", "--json", code=2).document["error"]["exit_code"] == 2


def test_debug_shows_where_an_error_comes_from(cli, app):
    with cli.start("verify", "nope", "--bank", "bank", "--debug") as process:
        _, err = process.communicate(timeout=DEADLINE)

    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("error: ")


def test_without_its_extra_the_command_line_says_what_to_install(cli, tmp_path):
    script = (
        "import sys; sys.modules['click'] = None\n"
        "import importlib.util\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'rich' else find(name, *a)\n"
        "from karbor_actors.cli import main\n"
        "sys.exit(main())"
    )
    process = subprocess.run(
        [sys.executable, "-c", script],
        env=cli.environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert process.returncode == 2
    assert process.stderr == (
        "error: the command line needs its extra: pip install 'karbor-actors[cli]'\n"
    )


def test_an_empty_path_is_not_the_current_directory(cli):
    assert "PATH: is empty" in cli.fails(3, "protect", "--bank", "bank", "")


@pytest.mark.parametrize("seconds", ["nan", "inf", "0", "-1"])
def test_a_time_limit_is_a_positive_number_of_seconds(cli, seconds):
    assert "--timeout" in cli.fails(2, "protect", "--bank", "bank", ".", f"--timeout={seconds}")


def _spoiled(folder: Path, what: str) -> list[str]:
    """Make a bank that cannot be used as it is; return the options that name it."""
    bank = str(folder)
    if what == "file":
        folder.write_text("no bank")
    elif what == "below a file":
        (folder.parent / "plain").write_text("no bank")
        bank = str(folder.parent / "plain" / "bank")
    elif what == "full of other things":
        folder.mkdir()
        (folder / "notes.txt").write_text("no bank")
    elif what == "foreign":
        (folder / "bank.lmdb").mkdir(parents=True)
        (folder / "bank.lmdb" / "data.mdb").write_bytes(os.urandom(20_000))
    elif what == "empty":
        (folder / "bank.lmdb").mkdir(parents=True)
        (folder / "bank.lmdb" / "data.mdb").touch()
    elif what == "somebody's":
        folder.mkdir()
        lmdb.open(str(folder / "bank.lmdb")).close()
    elif what == "objects":
        return ["--bank", bank, "--objects", "weird://x"]
    elif what == "objects in a file":
        (folder.parent / "plain").write_text("no folder")
        return ["--bank", bank, "--objects", str(folder.parent / "plain")]
    return ["--bank", bank]


@pytest.mark.parametrize(
    ("what", "advice"),
    [
        ("file", "is not a directory"),
        ("below a file", "is not a directory"),
        ("full of other things", "name a new or an empty directory"),
        ("foreign", "rebuild it"),
        ("empty", "rebuild it"),
        ("somebody's", "name another directory"),
        ("objects", "write one of"),
        ("objects in a file", "name a directory that can"),
    ],
)
def test_whatever_is_wrong_with_a_bank_the_error_says_once_what_to_do(
    cli, tmp_path, app, what, advice
):
    error = cli.fails(5, "protect", "app", *_spoiled(tmp_path / "bank", what))

    assert advice in error
    assert error.count("; ") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")
def test_a_bank_that_may_not_be_read_is_no_wrong_usage(cli, tmp_path, app):
    cli.protect("app")
    os.chmod(tmp_path / "bank", 0)

    program = "import ctypes, sys; from karbor_actors.cli.app import run; "
    program += "ctypes.CDLL(None).setfsuid(65534); sys.exit(run(sys.argv[1:]))"
    process = subprocess.run(
        [sys.executable, "-c", program, "checkpoints", "list", "--bank", "bank"],
        cwd=tmp_path,
        env=cli.environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert process.returncode == 5
    assert "Permission denied" in process.stderr


@pytest.mark.parametrize("options", [("-p", "atime=true"), ("--parameters", "missing.toml")])
def test_malformed_parameters_are_not_called_a_plan(cli, app, options):
    error = cli.fails(3, "protect", "app", "--bank", "bank", *options)

    assert error.startswith("error: the parameters are not valid: ")


def test_a_plan_whose_provider_is_not_described_is_checked_with_a_warning(cli, tmp_path, app):
    (tmp_path / "plan.toml").write_text('provider = "other"\n' + PLAN.format("./app"))

    assert "provider 'other' is not described" in cli("plan", "check", "plan.toml").err
