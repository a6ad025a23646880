"""Runs the code blocks of the documents: what they show is what happens.

Each document is one story, told in an empty directory of its own:

- ``python`` blocks run one after another in one namespace;
- ``console`` blocks run the lines that begin with ``$`` in bash, with the commands of this
  environment; each must succeed, and their output is for the reader only;
- ``toml`` and ``json`` blocks must parse;
- any block whose info string says ``file=NAME`` is first written to that file;
- ``skip`` in an info string leaves a block alone; every other language is left alone too.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])

FENCE = re.compile(
    r"^(?P<indent> *)```(?P<info>[^`\n]*)\n(?P<body>.*?)^ *```\s*$", re.MULTILINE | re.DOTALL
)
COMMAND_LIMIT = 120.0


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its options and where its first line stands."""

    language: str
    options: tuple[str, ...]
    text: str
    line: int

    @property
    def file(self) -> str | None:
        return next((o.removeprefix("file=") for o in self.options if o.startswith("file=")), None)


def blocks_of(document: Path) -> list[Block]:
    text = document.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        language, *options = match["info"].split() or [""]
        body = re.sub(f"^{match['indent']}", "", match["body"], flags=re.MULTILINE)
        line = text.count("\n", 0, match.start("body")) + 1
        if "skip" not in options:
            found.append(Block(language, tuple(options), body, line))
    return found


def run_python(block: Block, document: Path, namespace: dict[str, object]) -> None:
    # The empty lines make a traceback name the document's own line.
    code = compile("\n" * (block.line - 1) + block.text, str(document), "exec", dont_inherit=True)
    exec(code, namespace)


def run_console(block: Block, document: Path, namespace: dict[str, object]) -> None:
    lines = [line[2:] for line in block.text.splitlines() if line.startswith("$ ")]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        check=False,
        timeout=COMMAND_LIMIT,
        env=os.environ | {"PATH": path},
    )
    assert done.returncode == 0, f"{document}:{block.line}\n{done.stdout}{done.stderr}"


RUNNERS = {
    "python": run_python,
    "console": run_console,
    "toml": lambda block, document, namespace: tomllib.loads(block.text),
    "json": lambda block, document, namespace: json.loads(block.text),
}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_code_blocks_run(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "document"}
    for block in blocks_of(document):
        if block.file is not None:
            Path(block.file).write_text(block.text, encoding="utf-8")
        if run := RUNNERS.get(block.language):
            run(block, document, namespace)


def test_a_newcomer_can_follow_the_readme_and_do_it_again(tmp_path):
    """In a shell that knows nothing of this environment but what the README says."""
    blocks = blocks_of(ROOT / "README.md")
    (activation,) = (b.text for b in blocks if b.language == "sh" and "activate" in b.text)
    (example,) = (b for b in blocks if b.language == "python")
    typed = [
        line[2:]
        for b in blocks
        if b.language == "console"
        for line in b.text.splitlines()
        if line.startswith("$ ")
    ]
    clone = tmp_path / "clone"
    clone.mkdir()
    (clone / ".venv").symlink_to(sys.prefix)
    script = tmp_path / "typed"
    save = f"cat > {example.file} <<'END'\n{example.text}END\n"
    script.write_text("\n".join([activation, save, f"python {example.file}", *typed]))
    own = str(Path(sys.executable).parent)
    path = os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if p != own)
    for _ in range(2):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", str(script)],
            cwd=clone,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_LIMIT,
            env=os.environ | {"PATH": path},
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_fence_is_closed():
    unclosed = [
        str(document.relative_to(ROOT))
        for document in DOCUMENTS
        if len(re.findall(r"^ *```", document.read_text(encoding="utf-8"), re.MULTILINE)) % 2
    ]

    assert not unclosed


def test_links_between_the_documents_lead_somewhere():
    broken = []
    for document in DOCUMENTS:
        text = FENCE.sub("", document.read_text(encoding="utf-8"))
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
            is_local = "://" not in target and not target.startswith("mailto:")
            if is_local and not (document.parent / target).exists():
                broken.append(f"{document.relative_to(ROOT)}: {target}")

    assert not broken


def test_ci_runs_the_test_command_of_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = [line for block in FENCE.finditer(readme) for line in block["body"].splitlines()]

    assert [line for line in lines if "demo" in line], "the README has no line that runs the demo"
    assert len([line for line in lines if ".venv/bin/tox" in line]) == 1
    assert "README.md" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
