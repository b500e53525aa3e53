"""What holds for all source files: import rules, size, nothing of one machine, a quick command line."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

MAX_LINES = 300
RUNTIME_IMPORTS = {"PIL", "numpy", "onnxruntime", "stlm_core"}
HEAVY = (
    "boto3",
    "cryptography",
    "cv2",
    "fastapi",
    "great_expectations",
    "jinja2",
    "matplotlib",
    "mlflow",
    "numpy",
    "onnx",
    "onnxruntime",
    "pandas",
    "pyarrow",
    "pydantic",
    "scipy",
    "sklearn",
    "torch",
    "uvicorn",
    "yaml",
)
TEXT_SUFFIXES = {"", ".cfg", ".html", ".j2", ".json", ".lock", ".md", ".py", ".sh", ".toml", ".txt", ".yaml", ".yml"}
# A path of one machine, or an index that only some machines reach.
LOCAL_ONLY = re.compile(
    r"(?<![\w.~$}/-])/(?:home|work|Users|opt/(?:pypi|wheels))/|^\s*--(?:(?:extra-)?index-url|find-links)\b",
    re.MULTILINE,
)


def project_files(repository: Path) -> list[Path]:
    """Files that are or could be tracked; in a checkout without git, those outside the ignored folders."""
    if (repository / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True).stdout
        return [repository / name for name in names.split("\0") if name and (repository / name).is_file()]
    ignored = {line.strip("/\n") for line in (repository / ".gitignore").read_text().splitlines()}
    return [
        file
        for file in repository.rglob("*")
        if file.is_file() and not ignored & {*file.relative_to(repository).parts} and file.suffix != ".pyc"
    ]


def test_import_rules(repository: Path) -> None:
    script = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", script, "--no-cache"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_runtime_needs_only_what_an_edge_box_installs(repository: Path) -> None:
    for file in (repository / "stlm_core" / "runtime").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            tops = {name.partition(".")[0] for name in names}
            assert tops <= RUNTIME_IMPORTS | sys.stdlib_module_names, file


@pytest.mark.parametrize("module", ["stlm_core.cli", "stlm_core.cli.main"])
def test_the_command_line_imports_nothing_heavy(module: str) -> None:
    script = f"import sys, {module}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_modules_stay_short(repository: Path) -> None:
    lengths = {
        file.relative_to(repository).as_posix(): len(file.read_text(encoding="utf-8").splitlines())
        for file in (repository / "stlm_core").rglob("*.py")
    }
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_nothing_belongs_to_one_machine(repository: Path) -> None:
    found = {}
    for file in project_files(repository):
        if file.suffix not in TEXT_SUFFIXES or file == Path(__file__):
            continue
        if match := LOCAL_ONLY.search(file.read_text(encoding="utf-8", errors="replace")):
            found[file.relative_to(repository).as_posix()] = match[0]
    assert found == {}


def test_no_binary_data_is_kept(repository: Path) -> None:
    """The sample line and the textures are made by code; nothing large slips in."""
    limit = {"requirements.lock": 1 << 20}
    sizes = {file.relative_to(repository).as_posix(): file.stat().st_size for file in project_files(repository)}
    assert {name: size for name, size in sizes.items() if size > limit.get(name, 256 << 10)} == {}
