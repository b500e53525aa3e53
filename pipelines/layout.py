"""Where everything goes in the picture of a pipeline: a column of boxes, frames around them, lines beside them.

The training is close to a chain: side by side, its dozen tasks would be too small to read. So every task has a row of
its own, in the order of the longest path. What the next row reads comes straight down; what later rows read too leaves
to the side, runs down in a lane, and comes in from the side. Units are SVG's pixels.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from pipelines.dag import Dag, Flow, FlowKind, Group, Task
from pipelines.lanes import Lane, Line, ends, place_lines

MARGIN = 18
BOX_HEIGHT = 54  # at least; more where many lines end
PORT = 20  # between two ends at a box's side
GAP = 36  # between rows
HEAD, FOOT, PAD = 42, 12, 14  # of a frame: above, below, beside what is in it
LANE = 20  # between two lanes
TITLE, SMALL = 15, 11.5  # sizes of type
PILL_GAP = 6
NEXT, GATE = 0.5, 0.9  # where lines to the next box, and those to a group's frame, leave a box


@dataclass(frozen=True)
class Box:
    """A rectangle."""

    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        return self.x + self.width

    @property
    def bottom(self) -> float:
        return self.y + self.height

    def overlaps(self, other: Box) -> bool:
        return self.x < other.right and other.x < self.right and self.y < other.bottom and other.y < self.bottom

    def holds(self, other: Box) -> bool:
        return self.x < other.x and other.right < self.right and self.y < other.y and other.bottom < self.bottom


@dataclass(frozen=True)
class Drop:
    """A line straight down into the next box or frame; ``colour`` is a number, None for grey."""

    label: str
    kind: FlowKind
    colour: int | None
    x: float
    top: float
    bottom: float
    label_y: float


@dataclass(frozen=True)
class Tap:
    """Where a line leaves (``leaves``) or reaches a box, at (``x``, ``y``); its label ends or begins at ``label_x``."""

    x: float
    y: float
    label_x: float
    leaves: bool


@dataclass(frozen=True)
class Wire:
    """A line in the lane at ``x``, with its ends from top to bottom."""

    label: str
    kind: FlowKind
    colour: int | None
    x: float
    taps: tuple[Tap, ...]

    @property
    def from_left(self) -> bool:
        return self.x < self.taps[0].x


@dataclass(frozen=True)
class Geometry:
    """Everything of the picture but its heading; its upper left corner is (0, 0). Lanes are left of ``clear``."""

    width: float
    height: float
    boxes: dict[str, Box]
    frames: dict[str, Box]
    clear: float
    drops: tuple[Drop, ...]
    wires: tuple[Wire, ...]


def text_width(text: str, size: float) -> float:
    """Room for a text in any usual sans-serif type; most need less."""
    return 0.62 * size * len(text)


def pills(task: Task) -> list[str]:
    """The badges of a task."""
    found = [] if task.cached else ["never cached"]
    return [*found, *([f"{task.retries} retries"] if task.retries else [])]


def pill_width(text: str) -> float:
    return text_width(text, SMALL) + 10


def geometry(dag: Dag) -> Geometry:
    """Places for the tasks, groups and flows of a pipeline."""
    return _Layout(dag).geometry()


class _Layout:
    def __init__(self, dag: Dag) -> None:
        self.dag = dag
        self.rows = {task.name: row for row, task in enumerate(dag.tasks)}
        self.spans = {group.name: (self.rows[group.tasks[0]], self.rows[group.tasks[-1]]) for group in dag.groups}
        values = dict.fromkeys((f.source, f.label) for f in self._in_order(dag.flows) if f.kind == "artifact")
        self.colours = {value: number for number, value in enumerate(values)}
        self.straight = {flow for flow in dag.flows if self._is_straight(flow)}
        self.lines = self._lines()
        self.lanes = place_lines(list(self.lines))
        self.narrow = {group.name for group in dag.groups if not self._is_wide(group)}
        # From the boxes outwards: narrow frames, the lines' labels, lanes, the other frames.
        depths = {group.name: self._depth(group) for group in dag.groups}
        deepest = max((depths[name] for name in self.narrow), default=0)
        labels = max((text_width(line.name, SMALL) for line in self.lines), default=0) + 16
        self.first_lane = PAD * deepest + labels
        counts = [
            1 + max((lane.index for lane in self.lanes.values() if lane.side == side), default=-1) for side in (0, 1)
        ]
        beside = [self.first_lane + LANE * count if count else PAD * deepest for count in counts]
        around = MARGIN + PAD * (max(depths.values(), default=0) - deepest)
        self.left, self.box_width = around + beside[0], self._box_width()
        self.width = self.left + self.box_width + beside[1] + around
        self.clear = self.left - self.first_lane + PILL_GAP if counts[0] else 0.0

    def geometry(self) -> Geometry:
        boxes, edges, height = self._stack()
        frames = self._frames(boxes, edges)
        wires = tuple(self._wire(line, boxes, frames) for line in self.lanes)
        return Geometry(self.width, height, boxes, frames, self.clear, tuple(self._drops(boxes, frames)), wires)

    def _in_order(self, flows: tuple[Flow, ...]) -> list[Flow]:
        return sorted(flows, key=lambda flow: (self._ends(flow), flow.label, flow))

    def _ends(self, flow: Flow) -> tuple[int, int]:
        """Rows of a flow's ends: the last row of a group it comes from, the first row of one it goes to."""
        source = self.spans[flow.source][1] if flow.source in self.spans else self.rows[flow.source]
        target = self.spans[flow.target][0] if flow.target in self.spans else self.rows[flow.target]
        return source, target

    def _is_straight(self, flow: Flow) -> bool:
        source, target = self._ends(flow)
        return target == source + 1

    def _lines(self) -> dict[Line, tuple[FlowKind, int | None]]:
        """What is read farther away than in the next row, with its kind and colour."""
        targets: dict[tuple[int, str, str, FlowKind], set[int]] = defaultdict(set)
        for flow in self._in_order(self.dag.flows):
            if flow not in self.straight:
                source, target = self._ends(flow)
                targets[source, flow.source, flow.label, flow.kind].add(target)
        return {
            Line(label, source, tuple(sorted(found))): (kind, self.colours.get((name, label)))
            for (source, name, label, kind), found in targets.items()
        }

    def _is_wide(self, group: Group) -> bool:
        """Whether a line runs inside the group, so that its frame goes around the lanes."""
        low, high = self.spans[group.name]
        return any(low <= line.source and line.last <= high for line in self.lines)

    def _inner(self, outer: Group) -> list[str]:
        place = self.dag.groups.index(outer)
        return [group.name for group in self.dag.groups[place + 1 :] if set(group.tasks) <= set(outer.tasks)]

    def _depth(self, group: Group) -> int:
        inner = set(self._inner(group))
        return 1 + max((self._depth(other) for other in self.dag.groups if other.name in inner), default=0)

    def _lane_x(self, lane: Lane) -> float:
        away = self.first_lane + LANE * lane.index
        return self.left - away if lane.side == 0 else self.left + self.box_width + away

    def _box_width(self) -> float:
        """Enough for a task's texts, and for a narrow frame's beside the line that comes straight down."""
        widths = [300.0]
        for task in self.dag.tasks:
            widths.append(text_width(task.title, TITLE) + text_width(task.name, SMALL) + 50)
            below = sum(pill_width(text) + PILL_GAP for text in pills(task))
            widths.append(text_width(task.image, SMALL) + below + 50)
        for group in self.dag.groups:
            if group.name in self.narrow:
                widths.append(2 * (max(text_width(group.title, SMALL + 1), text_width(group.detail, SMALL)) + 8))
        return max(widths)

    def _stack(self) -> tuple[dict[str, Box], dict[str, tuple[float, float]], float]:
        """Boxes from top to bottom; the frames' upper and lower edges; the height of it all."""
        boxes: dict[str, Box] = {}
        edges: dict[str, tuple[float, float]] = {}
        y = 0.0
        for row, task in enumerate(self.dag.tasks):
            for group in self.dag.groups:
                if self.spans[group.name][0] == row:
                    edges[group.name] = (y, y)
                    y += HEAD
            crowd = max(len(ends(row, side, self.lanes)) for side in (0, 1))
            boxes[task.name] = Box(self.left, y, self.box_width, max(BOX_HEIGHT, PORT * crowd + 8))
            y = boxes[task.name].bottom
            for group in reversed(self.dag.groups):
                if self.spans[group.name][1] == row:
                    y += FOOT
                    edges[group.name] = (edges[group.name][0], y)
            y += GAP
        return boxes, edges, y - GAP + MARGIN

    def _frames(self, boxes: dict[str, Box], edges: dict[str, tuple[float, float]]) -> dict[str, Box]:
        """Around the tasks, the frames inside, and in a wide frame the lanes at its rows."""
        frames: dict[str, Box] = {}
        for group in reversed(self.dag.groups):
            inside = [boxes[name] for name in group.tasks] + [frames[name] for name in self._inner(group)]
            sides = [side for box in inside for side in (box.x, box.right)]
            if group.name not in self.narrow:
                low, high = self.spans[group.name]
                met = [lane for line, lane in self.lanes.items() if line.source < high and line.last > low]
                sides += [self._lane_x(lane) for lane in met]
            left, right = min(sides) - PAD, max(sides) + PAD
            top, bottom = edges[group.name]
            frames[group.name] = Box(left, top, right - left, bottom - top)
        return frames

    def _drops(self, boxes: dict[str, Box], frames: dict[str, Box]) -> list[Drop]:
        together: dict[tuple[str, str], list[Flow]] = defaultdict(list)
        for flow in self._in_order(tuple(self.straight)):
            together[flow.source, flow.target].append(flow)
        drops = []
        for (source, target), flows in together.items():
            label = ", ".join(flow.label for flow in flows)
            kind = min((flow.kind for flow in flows), key=["artifact", "parameter", "order"].index)
            row = self._ends(flows[0])[0]
            closed = [frames[name].bottom for name, span in self.spans.items() if span[1] == row]
            free = max(closed, default=boxes[self.dag.tasks[row].name].bottom)
            drops.append(
                Drop(
                    label,
                    kind,
                    self.colours.get((source, flows[0].label)) if len(flows) == 1 else None,
                    self.left + self.box_width * (GATE if target in frames else NEXT),
                    (frames.get(source) or boxes[source]).bottom,
                    (frames.get(target) or boxes[target]).y,
                    free + GAP / 2,
                )
            )
        return drops

    def _wire(self, line: Line, boxes: dict[str, Box], frames: dict[str, Box]) -> Wire:
        side = self.lanes[line].side
        kind, colour = self.lines[line]
        taps = []
        for row in (line.source, *line.targets):
            task = self.dag.tasks[row]
            box = boxes[task.name]
            touching = ends(row, side, self.lanes)
            y = box.y + box.height / 2 + PORT * (touching.index(line) - (len(touching) - 1) / 2)
            around = [box, *(frames[name] for name in task.groups if name in self.narrow)]
            label_x = min(frame.x for frame in around) - 8 if side == 0 else max(frame.right for frame in around) + 8
            taps.append(Tap(box.x if side == 0 else box.right, y, label_x, row == line.source))
        return Wire(line.name, kind, colour, self._lane_x(self.lanes[line]), tuple(taps))
