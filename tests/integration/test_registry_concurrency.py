"""Commands on one registry at once, each from a machine of its own: a real MLflow server with real PostgreSQL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mlflow_server import HAS_POSTGRES, mlflow_server, postgres
from registry_project import PARAMS, make_project, write_export
from warm_process import STLM

from stlm_core.config import LineConfig, load_line
from stlm_core.integrations.mlflow_client import open_tracking
from stlm_core.integrations.mlflow_registry import CHALLENGER, CHAMPION, PREVIOUS, Registry
from stlm_core.integrations.registry_lock import PREFIX
from stlm_core.steps.promote import promote
from stlm_core.steps.register import register
from stlm_core.steps.workspace import Workspace

pytestmark = [
    pytest.mark.slow,
    pytest.mark.integration,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not HAS_POSTGRES, reason="no PostgreSQL: pip install pgserver 'psycopg[binary]'"),
]
LINES = 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with postgres() as database, mlflow_server(tmp_path_factory.mktemp("mlflow") / "server", database, 2) as address:
        yield address


@pytest.fixture
def machine(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    return tmp_path


def make_line(root: Path, line: str) -> tuple[LineConfig, Workspace]:
    make_project(root)
    (root / "params.yaml").write_text(PARAMS.replace("tiny", line))
    return load_line(root / "params.yaml", line), Workspace(root / "outputs", line)


def begin(root: Path, line: str, *command: str) -> subprocess.Popen[str]:
    """A command from the project folder ``root``, as from a machine of its own: nothing on disk is shared."""
    program = [*STLM, *command, "--line", line]
    return subprocess.Popen(
        [*program, "--params", str(root / "params.yaml")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, error = process.communicate(timeout=300)
    return process.returncode, out + error


def registry_of(config: LineConfig) -> tuple[dict[str, int], dict[str, str], int]:
    """Aliases, the champion's tags, and how many entries of locks are left."""
    with open_tracking(config.root) as tracking:
        registry = Registry(tracking, config.name)
        champion = registry.at(CHAMPION)
        assert champion is not None
        locks = [tag for tag in tracking.client.get_registered_model(registry.name).tags if tag.startswith(PREFIX)]
        return registry.aliases(), dict(champion.tags), len(locks)


def test_two_promotions_at_once_promote_once(machine: Path) -> None:
    config, workspace = make_line(machine / "a", "doubled")
    make_line(machine / "b", "doubled")
    write_export(workspace, revision="r0")
    register(config, workspace)
    promote(config)
    for number in range(1, 4):
        write_export(workspace, revision=f"r{number}")
        register(config, workspace)
        both = [end(each) for each in [begin(machine / name, "doubled", "promote") for name in ("a", "b")]]
        assert [code for code, _ in both] == [0, 0], both
        told = sorted(text.splitlines()[0] for _, text in both)
        assert told == [
            f"promote doubled: version {number + 1} is champion already",
            f"promote doubled: version {number + 1} is champion, replacing version {number}",
        ]
        aliases, tags, locks = registry_of(config)
        assert aliases == {CHAMPION: number + 1, PREVIOUS: number}
        assert (tags["replaces"], locks) == (str(number), 0)


def test_a_promotion_and_a_rollback_at_once_leave_one_of_their_two_orders(machine: Path) -> None:
    config, workspace = make_line(machine / "a", "crossed")
    make_line(machine / "b", "crossed")
    for number in (1, 2):
        write_export(workspace, revision=f"r{number}")
        register(config, workspace)
        promote(config)
    newest = 2
    for _ in range(3):
        before = registry_of(config)[0]
        newest += 1
        write_export(workspace, revision=f"r{newest}")
        register(config, workspace)
        promoted, rolled = (
            end(each)
            for each in [begin(machine / "a", "crossed", "promote"), begin(machine / "b", "crossed", "rollback")]
        )
        assert (promoted[0], rolled[0]) == (0, 0), (promoted, rolled)
        aliases, tags, locks = registry_of(config)
        # Promoted and taken back, or taken back and promoted over what came before.
        first = {CHAMPION: before[CHAMPION]}
        second = {CHAMPION: newest, PREVIOUS: before[PREVIOUS]}
        assert {name: number for name, number in aliases.items() if name != PREVIOUS or aliases == second} in (
            first,
            second,
        ), (before, aliases)
        assert locks == 0
        assert "rolled_back_at" not in tags
        if aliases[CHAMPION] != newest:  # so that there is something to go back to in the next round
            if CHALLENGER in aliases:
                promote(config, force=True, reason="next round")
            newest += 1
            write_export(workspace, revision=f"r{newest}")
            register(config, workspace)
            promote(config)


def test_twenty_lines_at_once(machine: Path) -> None:
    lines = [f"line-{number:02}" for number in range(LINES)]
    projects = {line: make_line(machine / line, line) for line in lines}
    for line, (_, workspace) in projects.items():
        write_export(workspace, revision=f"first of {line}")

    def register_one(line: str) -> tuple[int, str]:
        return end(begin(machine / line, line, "register", "--outputs", str(machine / line / "outputs")))

    def promote_one(line: str) -> tuple[int, str]:
        return end(begin(machine / line, line, "promote"))

    for run in (register_one, promote_one):
        with ThreadPoolExecutor(10) as pool:
            done = list(pool.map(run, lines))
        assert [code for code, _ in done] == [0] * LINES, [text for code, text in done if code]
    for line, (config, _) in projects.items():
        aliases, tags, locks = registry_of(config)
        assert (aliases, locks) == ({CHAMPION: 1}, 0)
        assert tags["code_version"] == f"first of {line}"


def test_a_killed_holder_holds_up_nobody_of_its_machine(machine: Path) -> None:
    config, workspace = make_line(machine / "a", "killed")
    write_export(workspace, revision="r1")
    register(config, workspace)
    script = (
        "import sys, time; from pathlib import Path\n"
        "from stlm_core.integrations.mlflow_client import open_tracking\n"
        "from stlm_core.integrations.mlflow_registry import Registry\n"
        "with open_tracking(Path(sys.argv[1])) as tracking, Registry(tracking, 'killed').locked('promote'):\n"
        "    print('inside', flush=True); time.sleep(600)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", script, str(machine / "a")], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "inside\n"
    waiting = begin(machine / "a", "killed", "promote")
    time.sleep(8)
    assert waiting.poll() is None
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert end(waiting)[0] == 0
    aliases, _, locks = registry_of(config)
    assert (aliases, locks) == ({CHAMPION: 1}, 0)
