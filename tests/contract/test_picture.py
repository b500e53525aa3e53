"""The picture and the table of the training pipeline: true, whole, and legible."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from pipelines.compilation import COMPILED, PIPELINES
from pipelines.dag import Dag, Flow, read_dag
from pipelines.lanes import Line, crossings, place_lines
from pipelines.layout import SMALL, geometry, text_width
from pipelines.picture import DRAWN, PICTURE, draw, picture_of
from stlm_core.errors import UserError

SVG = "{http://www.w3.org/2000/svg}"


def specification(name: str) -> dict[str, Any]:
    return next(iter(yaml.safe_load_all((COMPILED / f"{name}.yaml").read_text(encoding="utf-8"))))


@pytest.fixture(scope="module", params=PIPELINES)
def dag(request: pytest.FixtureRequest) -> Dag:
    return read_dag(specification(request.param))


def test_the_picture_is_what_the_code_draws() -> None:
    assert PICTURE.read_text(encoding="utf-8") == picture_of(DRAWN), "run `python -m pipelines picture`"


def test_every_task_and_group_of_the_compiled_pipeline_is_in_the_picture() -> None:
    """Looked up in the IR itself, not in what the picture is drawn from."""
    spec = specification(DRAWN)
    texts = [element.text for element in ElementTree.parse(PICTURE).iter(f"{SVG}text")]
    levels = [spec["root"], *(component for component in spec["components"].values() if "dag" in component)]
    shown = [task for level in levels for task in level["dag"]["tasks"].items()]
    assert len(shown) > 13
    for name, task in shown:
        assert texts.count(task["taskInfo"]["name"]) == 1
        if "dag" not in spec["components"][task["componentRef"]["name"]]:
            assert name in texts
    executors = spec["deploymentSpec"]["executors"].values()
    for image in {executor["container"]["image"] for executor in executors}:
        uses = [executor for executor in executors if executor["container"]["image"] == image]
        assert texts.count(image.split("/")[-1].split(":")[0]) == len(uses) + 1  # one in the legend


def test_it_is_well_formed_and_keeps_to_its_ground(dag: Dag) -> None:
    root = ElementTree.fromstring(draw(dag))
    assert root.tag == f"{SVG}svg"
    ground = root.find(f"{SVG}rect")
    assert ground is not None
    assert ground.get("fill") == "#ffffff"
    assert float(root.attrib["width"]) <= 1000
    places = geometry(dag)
    for box in (*places.boxes.values(), *places.frames.values()):
        assert box.x > 0
        assert box.y >= 0
        assert box.right < places.width
        assert box.bottom < places.height


def test_boxes_and_frames_do_not_overlap(dag: Dag) -> None:
    places = geometry(dag)
    assert set(places.boxes) == {task.name for task in dag.tasks}
    for one, other in combinations(places.boxes.values(), 2):
        assert not one.overlaps(other)
    for group in dag.groups:
        frame = places.frames[group.name]
        for name, box in places.boxes.items():
            assert frame.holds(box) if name in group.tasks else not frame.overlaps(box)
    for one, other in combinations(places.frames.values(), 2):
        assert one.holds(other) or other.holds(one) or not one.overlaps(other)


def test_texts_have_room(dag: Dag) -> None:
    """Labels of lines beside the boxes end before the lanes and stand apart; those between boxes do too."""
    places = geometry(dag)
    for wire in places.wires:
        for tap in wire.taps:
            assert abs(tap.label_x - wire.x) >= text_width(wire.label, SMALL)
    taps = [(tap.x, tap.y) for wire in places.wires for tap in wire.taps]
    for (x, y), (other_x, other_y) in combinations(taps, 2):
        assert x != other_x or abs(y - other_y) > SMALL + 2
    for one, other in combinations(sorted(places.drops, key=lambda drop: drop.x), 2):
        assert one.label_y != other.label_y or one.x + 8 + text_width(one.label, SMALL) < other.x
    for group in dag.groups:
        text_x = max(places.frames[group.name].x + 12, places.clear)
        crossed = [drop for drop in places.drops if drop.top < places.frames[group.name].y < drop.bottom - 1]
        assert all(text_x + text_width(group.detail, SMALL) < drop.x for drop in crossed)


def test_every_flow_is_drawn_once(dag: Dag) -> None:
    places = geometry(dag)
    drawn = sum(len(drop.label.split(", ")) for drop in places.drops) + sum(
        not tap.leaves for wire in places.wires for tap in wire.taps
    )
    assert drawn == len(dag.flows)


def test_flows_are_followed_through_groups() -> None:
    flows = set(read_dag(specification(DRAWN)).flows)
    assert {
        Flow("synthesize", "cache-teacher-shard", "bank", "artifact"),  # into the loop
        Flow("cache-teacher-shard", "cache-teacher", "part", "artifact"),  # out of it
        Flow("check-freshness", "promote", "data", "parameter"),  # into three groups
    } <= flows
    assert not any(flow.kind == "order" for flow in flows), "all waiting is explained by a value"


def test_both_trainings_are_the_same_graph() -> None:
    cpu, gpu = (read_dag(specification(f"training-{kind}")) for kind in ("cpu", "gpu"))
    assert cpu.flows == gpu.flows
    assert cpu.groups == gpu.groups
    assert [task.image.replace("cpu", "cuda") for task in cpu.tasks] == [task.image for task in gpu.tasks]


def test_waiting_without_a_value_is_drawn_too() -> None:
    task = {"componentRef": {"name": "c"}, "taskInfo": {"name": "Task"}}
    spec = {
        "pipelineInfo": {"name": "p"},
        "root": {"dag": {"tasks": {"a": {**task, "dependentTasks": ["b"]}, "b": task}}},
        "components": {"c": {"executorLabel": "e"}},
        "deploymentSpec": {"executors": {"e": {"container": {"image": "host:5000/stlm-x@sha256:0"}}}},
    }
    found = read_dag(spec)
    assert [task.name for task in found.tasks] == ["b", "a"]
    assert {task.image for task in found.tasks} == {"stlm-x"}
    assert found.flows == (Flow("b", "a", "", "order"),)
    assert "waits for" in draw(found)


def test_lines_that_need_not_cross_do_not() -> None:
    nested = [Line("a", 0, (9,)), Line("b", 1, (8,)), Line("c", 2, (7,)), Line("d", 3, (4,)), Line("e", 4, (6,))]
    lanes = place_lines(nested)
    assert len(set(lanes.values())) < len(nested), "d and e share a lane"
    for near, far in combinations(sorted(nested, key=lambda line: lanes[line].index), 2):
        if lanes[near].side == lanes[far].side:
            assert crossings(near, far) == 0


def test_an_unknown_pipeline_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"nobody\.yaml: there is no such pipeline; take one of promotion, retrain-all"):
        picture_of("nobody")


def test_the_table_of_tasks_is_true(repository: Path) -> None:
    section = (repository / "docs" / "kubeflow.md").read_text(encoding="utf-8").partition("## The DAG")[2]
    rows = re.findall(r"^\| `.*\|$", section.partition("\n## ")[0], re.MULTILINE)
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    spec, dag = specification(DRAWN), read_dag(specification(DRAWN))
    assert [re.findall(r"`(.*?)`", row[0])[0] for row in cells] == [task.name for task in dag.tasks]
    for task, (_, image, cached, retries, reads, writes) in zip(dag.tasks, cells, strict=True):
        assert f"stlm-{image.strip('`')}" == task.image
        assert cached == ("yes" if task.cached else "never")
        assert retries == (str(task.retries) if task.retries else "-")
        assert set(re.findall(r"`(.*?)`", reads)) == {flow.label for flow in dag.flows if flow.target == task.name}
        outputs = spec["components"][f"comp-{task.name}"].get("outputDefinitions", {})
        assert set(re.findall(r"`(.*?)`", writes)) == {key for kind in outputs.values() for key in kind}
