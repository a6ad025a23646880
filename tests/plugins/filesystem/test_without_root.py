"""What the plugin does for a user who is not root, in a process of its own."""

from __future__ import annotations

import os
import tempfile
import traceback
from pathlib import Path

import pytest

from karbor_actors import Bank, Resource
from karbor_actors.model import HOOKS
from karbor_filesystem import DirectoryProtection
from karbor_filesystem.errors import UnreadableError
from plugins.hooks import Context, Driver
from plugins.trees import describe

NOBODY = 65_534

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")


def run_as_nobody(action):
    """Call ``action(driver, directory)`` as nobody, and fail if it does."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o711)
        home = Path(directory) / "home"
        home.mkdir()
        os.chown(home, NOBODY, NOBODY)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
                with Bank.open(home / "bank") as bank:
                    action(Driver(bank, DirectoryProtection()), home)
                status = 0
            except BaseException:  # it is printed, and the parent sees the status
                traceback.print_exc()
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def make_readonly_tree(home):
    source = home / "source"
    (source / "sub" / "deep").mkdir(parents=True)
    (source / "sub" / "file").write_text("x")
    (source / "sub" / "deep" / "file").write_text("y")
    os.setxattr(source / "sub" / "file", "user.note", b"1")
    os.chmod(source / "sub" / "file", 0o2444)
    os.chmod(source / "sub", 0o555)
    os.chmod(source / "sub" / "deep", 0o555)
    return source


def test_a_readonly_tree_comes_back_even_if_each_hook_runs_twice():
    def action(driver, home):
        source = make_readonly_tree(home)
        resource = Resource("FileSystem::Directory", str(source))
        checkpoint = driver.protect(resource)
        context = Context()
        parameters = {"target": str(home / "target")}
        for hook in HOOKS:
            driver.run("restore", checkpoint, resource, context, parameters, hooks=(hook, hook))

        assert describe(home / "target") == describe(source)

    run_as_nobody(action)


@pytest.mark.parametrize("done", range(1, 5))
def test_abort_removes_a_readonly_tree(done):
    def action(driver, home):
        resource = Resource("FileSystem::Directory", str(make_readonly_tree(home)))
        checkpoint = driver.protect(resource)
        context = Context()
        parameters = {"target": str(home / "target")}
        driver.run("restore", checkpoint, resource, context, parameters, hooks=HOOKS[:done])

        driver.abort("restore", checkpoint, resource, context)

        assert not (home / "target").exists()

    run_as_nobody(action)


def test_a_file_of_others_fails_the_protect_or_is_reported():
    def action(driver, home):
        source = make_readonly_tree(home)
        os.chmod(source / "sub" / "file", 0)
        resource = Resource("FileSystem::Directory", str(source))

        with pytest.raises(UnreadableError, match="Permission denied"):
            driver.protect(resource)
        checkpoint = driver.protect(resource, on_unreadable="report")

        section = checkpoint.get_resource_bank_section(resource)
        assert driver.plugin.get_saved_info(section, resource)["unreadable"] == 1

    run_as_nobody(action)
