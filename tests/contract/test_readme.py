"""The README's commands exist."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

_FENCE = re.compile(r"^```(?:bash|sh|shell|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_TARGET = re.compile(r"^([a-z][a-z-]*):", re.MULTILINE)


def commands(repository: Path, program: str) -> list[list[str]]:
    """Arguments of every call of ``program`` in the README's shell blocks, comments and continuations resolved."""
    readme = repository / "README.md"
    found = []
    for block in _FENCE.findall(readme.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            words = line.removeprefix("$ ").partition(" #")[0].split()
            names = [word.rpartition("/")[2] for word in words]
            if program in names[:1]:
                found.append(words[1:])
    return found


def test_make_targets_exist(repository: Path) -> None:
    targets = set(_TARGET.findall((repository / "Makefile").read_text()))
    used = [
        word for arguments in commands(repository, "make") for word in arguments if "=" not in word and word[0] != "-"
    ]
    assert {"demo", "test"} <= set(used)
    assert set(used) <= targets


def test_make_works_in_a_folder_whose_name_has_a_space(repository: Path, tmp_path: Path) -> None:
    folder = tmp_path / "my project"
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "python $*"\n')
    python.chmod(0o755)
    shutil.copy(repository / "Makefile", folder)
    for name in ("requirements.lock", "pyproject.toml"):
        (folder / name).touch()
    for target in ("install", "test", "test-slow", "test-containers"):
        fake = ["PYTHON=true", "TEST_WORKERS=2"]
        done = subprocess.run(["make", target, *fake], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "python -m" in done.stdout


def test_stlm_commands_exist(repository: Path) -> None:
    used = commands(repository, "stlm")
    assert used
    names = {next(word for word in arguments if not word.startswith("-")) for arguments in used if arguments}
    for name in sorted(names):
        script = f"import sys; sys.argv = ['stlm', {name!r}, '--help']; from stlm_core.cli import main; main()"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"stlm {name}: {done.stderr}"


def test_stlm_options_exist(repository: Path) -> None:
    from typer.main import get_command

    from stlm_core.cli.main import app

    root = get_command(app)
    for arguments in commands(repository, "stlm"):
        command, context = root, None
        rest = list(arguments)
        while rest and not rest[0].startswith("-") and rest[0] in getattr(command, "commands", {}):
            command = command.commands[rest.pop(0)]  # type: ignore[attr-defined]
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        used = {word.partition("=")[0] for word in rest if word.startswith("--")} - {"--help"}
        assert used <= known, (arguments, context)


def test_make_help_lists_every_target(repository: Path) -> None:
    done = subprocess.run(["make", "help"], cwd=repository, capture_output=True, text=True, check=True)
    listed = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")}
    assert {"help", "install", "demo", "test", "lint", "lock", "clean", "ui"} <= listed
    assert listed == set(_TARGET.findall((repository / "Makefile").read_text()))


def test_a_missing_python_is_one_clear_sentence(repository: Path, tmp_path: Path) -> None:
    command = ["make", "--no-print-directory", "install", "PYTHON=python-that-is-missing", f"VENV={tmp_path / 'venv'}"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "python-that-is-missing" in done.stderr
    assert "PYTHON=" in done.stderr
    assert not (tmp_path / "venv").exists()
