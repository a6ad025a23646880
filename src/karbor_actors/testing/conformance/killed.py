"""A process of the suite's that runs verbs until a fault kills it: ``python -m`` this module.

It reads JSON: the search path, the subject's module, file and class, the directory, the verbs.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from karbor_actors.testing.conformance.trial import trial
from karbor_actors.testing.faults import VARIABLE, install_faults_from_environment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from karbor_actors.testing.conformance.subject import Subject

_LIMIT = 120.0


def run_killed(
    kind: type[Subject], directory: Path, verbs: Sequence[str], rule: dict[str, Any]
) -> bool:
    """Run *verbs* in a process that *rule* kills; return whether it was killed.

    Raises:
        AssertionError: The process ended in another way.
    """
    assert "<locals>" not in kind.__qualname__, (
        f"{kind.__qualname__} is made within a function, where the process to be killed cannot "
        "find it; put the Subject at its module's top level"
    )
    module = sys.modules[kind.__module__]
    asked = {
        "path": sys.path,
        "module": kind.__module__,
        "file": module.__file__,
        "class": kind.__qualname__,
        "directory": str(directory),
        "verbs": list(verbs),
    }
    done = subprocess.run(  # noqa: S603 - this very module
        [sys.executable, "-m", __name__],
        input=json.dumps(asked),
        env={**os.environ, VARIABLE: json.dumps({"rules": [rule]})},
        capture_output=True,
        text=True,
        check=False,
        timeout=_LIMIT,
    )
    assert done.returncode in (0, -signal.SIGKILL), (
        f"the process to be killed failed: {done.stderr}"
    )
    return done.returncode != 0


def _find(asked: dict[str, Any]) -> Any:
    try:
        module = importlib.import_module(asked["module"])
    except ImportError:
        spec = importlib.util.spec_from_file_location(asked["module"], asked["file"])
        if spec is None or spec.loader is None:
            raise
        module = sys.modules[asked["module"]] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    found: Any = module
    for name in asked["class"].split("."):
        found = getattr(found, name)
    return found


def main() -> None:
    """Run what standard input asks for."""
    asked = json.load(sys.stdin)
    sys.path[:] = asked["path"]
    subject = _find(asked)(Path(asked["directory"]))
    install_faults_from_environment()
    with trial(subject) as running:
        for verb in asked["verbs"]:
            running.run(verb)


if __name__ == "__main__":
    main()
