"""Images that are more than files of a folder: elsewhere on the disk, in S3, with masks that are drawn."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from line_project import PARAMS, catalog_of, content, images_of, photograph
from numpy.typing import NDArray
from PIL import Image
from seaweed import MISSING, SeaweedServer, weed_binary

from stlm_core.config import load_line
from stlm_core.data.adapters import ADAPTERS, Record, Scan
from stlm_core.data.inspection import inspect_line
from stlm_core.data.manifest import build_manifest
from stlm_core.errors import UserError
from stlm_core.integrations import s3
from stlm_core.steps.line_add import NewLine, add_line
from stlm_core.steps.line_update import Update, update_line
from stlm_core.weights.download import Patience


@dataclass(frozen=True)
class Square:
    """A drawn mask; nothing at all with ``side`` 0."""

    side: int

    def draw(self) -> NDArray[np.uint8]:
        if self.side < 0:
            raise UserError("a square of a negative side")
        mask = np.zeros((40, 40), np.uint8)
        mask[: self.side, : self.side] = 255
        return mask


class ListedAdapter:
    """Gives the records that a test puts into ``records``."""

    summary: ClassVar[str] = "for tests"
    masks: ClassVar[bool] = True

    def __init__(self) -> None:
        self.records: list[Record] = []

    def scan(self, root: Path, category: str | None = None) -> Scan:
        return Scan(tuple(sorted(self.records, key=lambda record: record.path)), {})


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> ListedAdapter:
    adapter = ListedAdapter()
    monkeypatch.setitem(ADAPTERS, "coco", adapter)
    return adapter


@pytest.fixture
def params(tmp_path: Path) -> Path:
    path = tmp_path / "checkout" / "params.yaml"
    path.parent.mkdir()
    path.write_text(PARAMS)
    return path


def png(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def test_images_from_elsewhere_and_drawn_masks(params: Path, listed: ListedAdapter, tmp_path: Path) -> None:
    table, elsewhere = tmp_path / "table", tmp_path / "elsewhere"
    for seed in range(5):
        photograph(elsewhere / f"{seed}.png", seed)
    photograph(table / "own.png", 50)
    Image.fromarray(Square(3).draw()).save(elsewhere / "mask.png")
    for name, mask in (("a", Square(2).draw()), ("b", Square(4).draw())):
        (table / "masks of 7").mkdir(exist_ok=True)
        Image.fromarray(mask).save(table / "masks of 7" / f"{name}.png")
    photograph(table / "7.png", 7)
    listed.records = [
        *(Record(f"good/{seed}.png", "train", 0, "good", source=str(elsewhere / f"{seed}.png")) for seed in range(3)),
        Record("own.png", "train", 0, "good"),
        Record("bad/3.png", "test", 1, "dent", source=str(elsewhere / "3.png"), mask_shape=Square(8)),
        Record(
            "bad/4.png",
            "test",
            1,
            "dent",
            "m/4.png",
            source=str(elsewhere / "4.png"),
            mask_source=str(elsewhere / "mask.png"),
        ),
        Record("7.png", "test", 1, "dent", "masks of 7"),
    ]
    line = NewLine("lids", table, "coco")
    dry = add_line(params, line, dry_run=True)
    assert (dry.report.counts["test"], dry.report.masks, dry.report.problems) == (3, 3, ())
    assert [path.name for path in params.parent.iterdir()] == ["params.yaml"]
    with pytest.raises(UserError, match=r"5 images or masks are not files of that folder, the first is that of bad/3"):
        add_line(params, NewLine("lids", table, "coco", copy=False))
    add_line(params, line)
    config = load_line(params, "lids")
    found = content(images_of(config))
    assert sorted(found) == [
        "7.png", "bad/3.png", "bad/4.png", "good/0.png", "good/1.png", "good/2.png", "m/4.png",
        "masks of 7/a.png", "masks of 7/b.png", "masks/bad/3.png.png", "own.png",
    ]  # fmt: skip
    assert found["good/2.png"] == (elsewhere / "2.png").read_bytes()
    assert found["m/4.png"] == (elsewhere / "mask.png").read_bytes()
    drawn = np.asarray(Image.open(images_of(config) / "masks/bad/3.png.png"))
    assert np.array_equal(drawn, Square(8).draw())
    assert not [row for row in inspect_line(config).rows if row.problem or row.mask_problem]
    listed.records.append(Record("more.png", "train", 0, "good", source=str(photograph(elsewhere / "x.png", 60))))
    done = update_line(params, "lids", Update(), params.parent / "outputs")
    assert (done.known, done.train, done.left_out) == (7, 1, ())


@pytest.mark.parametrize(
    ("side", "reason"), [(0, "no pixel of the mask is above 0"), (-1, "a square of a negative side")]
)
def test_masks_that_cannot_be_drawn(
    params: Path, listed: ListedAdapter, tmp_path: Path, side: int, reason: str
) -> None:
    for seed in range(3):
        photograph(tmp_path / "images" / f"{seed}.png", seed)
    listed.records = [Record(f"{seed}.png", "train", 0, "good") for seed in range(2)]
    listed.records.append(Record("2.png", "test", 1, "dent", mask_shape=Square(side)))
    with pytest.raises(UserError, match=rf"1 in all: 2\.png \(.*{reason}"):
        add_line(params, NewLine("lids", tmp_path / "images", "coco"))
    assert [path.name for path in params.parent.iterdir()] == ["params.yaml"]


def test_coco_polygons_become_mask_files(params: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "dataset"
    for seed in range(12):
        photograph(dataset / "images" / f"{seed}.png", seed)
    images = [{"id": seed, "file_name": f"{seed}.png", "width": 40, "height": 40} for seed in range(12)]
    corners = [5, 5, 15, 5, 15, 10, 5, 10]
    scratch = {"id": 1, "image_id": 3, "category_id": 1, "segmentation": [corners], "bbox": [5, 5, 10, 5], "area": 50}
    (dataset / "annotations.json").write_text(
        json.dumps({"images": images, "annotations": [scratch], "categories": [{"id": 1, "name": "scratch"}]})
    )
    added = add_line(params, NewLine("lids", dataset, "coco"))
    assert added.report.defect_types == {"scratch": 1}
    row = next(row for row in catalog_of(params, "lids").rows if row.label)
    mask = np.asarray(Image.open(images_of(load_line(params, "lids")) / row.mask_path))
    assert (int((mask > 0).sum()), mask[7, 10], mask[7, 20]) == (50, 255, 0)
    assert build_manifest(load_line(params, "lids")).digest()
    photograph(dataset / "images" / "99.png", 99)
    (dataset / "annotations.json").write_text(
        json.dumps(
            {
                "images": [*images, {"id": 99, "file_name": "99.png", "width": 40, "height": 40}],
                "annotations": [scratch],
                "categories": [{"id": 1, "name": "scratch"}],
            }
        )
    )
    done = update_line(params, "lids", Update(), params.parent / "outputs", dry_run=True)
    assert (done.known, done.train + len(done.left_out)) == (12, 1)


def test_elpv_from_the_installed_package(params: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = NewLine("cells", None, "elpv", category="mono")
    with pytest.raises(UserError, match="pip install elpv-dataset"):
        add_line(params, line, dry_run=True)
    package = tmp_path / "site" / "elpv_dataset"
    rows = []
    for number in range(20):
        photograph(package / "data" / "images" / f"cell{number:04d}.png", number)
        rows.append(f"images/cell{number:04d}.png {1.0 if number > 15 else 0.0} mono")
    (package / "data" / "labels.csv").write_text("\n".join(rows))
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(package.parent))
    added = add_line(params, line)
    assert sum(added.report.counts.values()) == 20
    assert added.report.defect_types == {"certain": 4}
    config = load_line(params, "cells")
    assert (config.data.category, config.validate_.require_masks) == ("mono", False)
    assert '"source": null' in (added.catalog.parent / "line.json").read_text()
    done = update_line(params, "cells", Update(), params.parent / "outputs")
    assert (done.batch, done.known) == (None, 20)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    weed = weed_binary()
    if weed is None:
        pytest.skip(MISSING)
    server = SeaweedServer(tmp_path_factory.mktemp("weed"), weed)
    server.start()
    server.create_bucket("factory")
    yield server
    server.kill()


@pytest.fixture
def bucket(store: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> SeaweedServer:
    for name, value in {
        **store.environment,
        "AWS_ENDPOINT_URL": store.endpoint,
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3, "Patience", lambda: Patience(attempts=2, pause=0.01, timeout=2))
    return store


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses of the objects that are fetched."""
    addresses: list[str] = []
    original = s3.ObjectCopier.copy

    def noted(self: s3.ObjectCopier, address: str, target: Path) -> str:
        addresses.append(address)
        return original(self, address, target)

    monkeypatch.setattr(s3.ObjectCopier, "copy", noted)
    return addresses


def in_bucket(store: SeaweedServer, *seeds: int) -> list[Record]:
    for seed in seeds:
        store.client().put_object(Bucket="factory", Key=f"shots/{seed}.png", Body=png(seed))
    return [Record(f"{seed}.png", "train", 0, "good", source=f"s3://factory/shots/{seed}.png") for seed in seeds]


def test_images_in_s3(params: Path, listed: ListedAdapter, tmp_path: Path, bucket: SeaweedServer) -> None:
    listed.records = in_bucket(bucket, 1, 2, 3)
    line = NewLine("lids", tmp_path, "coco")
    assert add_line(params, line, dry_run=True).report.unread == 3
    added = add_line(params, line)
    assert content(images_of(load_line(params, "lids"))) == {f"{seed}.png": png(seed) for seed in (1, 2, 3)}
    assert sorted(os.listdir(added.catalog.parent)) == ["catalog.csv", "images", "line.json"]
    bucket.client().delete_object(Bucket="factory", Key="shots/1.png")  # a known object is not fetched again
    listed.records += in_bucket(bucket, 4)
    dry = update_line(params, "lids", Update(), params.parent / "outputs", dry_run=True)
    assert (dry.known, dry.unread, dry.batch) == (3, 1, None)
    done = update_line(params, "lids", Update(), params.parent / "outputs")
    assert (done.known, done.train) == (3, 1)
    bucket.client().put_object(Bucket="factory", Key="shots/copy.png", Body=png(2))
    listed.records.append(Record("copy.png", "train", 0, "good", source="s3://factory/shots/copy.png"))
    again = update_line(params, "lids", Update(), params.parent / "outputs")
    assert [(each.path, each.reason) for each in again.left_out] == [("copy.png", "the same bytes as 2.png")]
    assert len(catalog_of(params, "lids").rows) == 4
    assert sorted(os.listdir(added.catalog.parent)) == ["catalog.csv", "images", "line.json"]


def test_a_table_of_files_here_there_and_in_s3(params: Path, tmp_path: Path, bucket: SeaweedServer) -> None:
    in_bucket(bucket, 41, 42)
    folder = tmp_path / "table"
    photograph(folder / "near.png", 43)
    far = photograph(tmp_path / "elsewhere" / "far.png", 44)
    mask = tmp_path / "elsewhere" / "mask.png"
    Image.fromarray(Square(4).draw()).save(mask)
    table = folder / "shots.csv"
    rows = ["near.png,,", f"{far},,", "s3://factory/shots/41.png,,", f"s3://factory/shots/42.png,dent,{mask}"]
    table.write_text("\n".join(["path,defect_type,mask_path", *rows, ""]))
    add_line(params, NewLine("lids", table, "table"))
    found = content(images_of(load_line(params, "lids")))
    assert set(found.values()) == {
        png(41),
        png(42),
        (folder / "near.png").read_bytes(),
        far.read_bytes(),
        mask.read_bytes(),
    }
    assert [row.mask_path != "" for row in catalog_of(params, "lids").rows if row.label] == [True]
    in_bucket(bucket, 45)
    table.write_text(table.read_text() + "s3://factory/shots/45.png,,\n")
    done = update_line(params, "lids", Update(), params.parent / "outputs")
    assert (done.known, done.train, done.left_out) == (4, 1, ())


def test_what_was_fetched_is_kept_for_the_next_attempt(
    params: Path, listed: ListedAdapter, tmp_path: Path, bucket: SeaweedServer, fetched: list[str]
) -> None:
    listed.records = in_bucket(bucket, 11, 12, 13)
    bucket.client().delete_object(Bucket="factory", Key="shots/13.png")
    line = NewLine("lids", tmp_path, "coco")
    with pytest.raises(UserError, match=r"s3://factory/shots/13\.png: no such object"):
        add_line(params, line)
    assert params.read_text() == PARAMS
    in_bucket(bucket, 13)
    fetched.clear()
    add_line(params, line)
    assert "s3://factory/shots/13.png" in fetched
    assert len(fetched) < 3
    assert len(catalog_of(params, "lids").rows) == 3


def test_an_object_that_was_repaired_or_exchanged_meanwhile_is_fetched_again(
    params: Path, listed: ListedAdapter, tmp_path: Path, bucket: SeaweedServer, fetched: list[str]
) -> None:
    listed.records = in_bucket(bucket, 51, 52, 53)
    bucket.client().put_object(Bucket="factory", Key="shots/52.png", Body=png(52)[:200])
    line = NewLine("lids", tmp_path, "coco")
    with pytest.raises(UserError, match=r"unusable images, 1 in all: 52\.png"):
        add_line(params, line)
    assert len(fetched) == 3
    in_bucket(bucket, 52)
    bucket.client().put_object(Bucket="factory", Key="shots/53.png", Body=png(54))  # a sound one, but another
    fetched.clear()
    added = add_line(params, line)
    assert sorted(fetched) == ["s3://factory/shots/52.png", "s3://factory/shots/53.png"]
    assert content(images_of(load_line(params, "lids"))) == {"51.png": png(51), "52.png": png(52), "53.png": png(54)}
    assert sorted(os.listdir(added.catalog.parent)) == ["catalog.csv", "images", "line.json"]


@pytest.mark.parametrize(
    ("suffix", "spoil", "times"),
    [
        ("", Path.unlink, 2),
        (".etag", Path.unlink, 2),
        ("", lambda path: path.write_bytes(b"shorter"), 2),
        (".etag", lambda path: path.write_bytes(b"\xff"), 2),
        ("", Path.stat, 1),  # nothing at all
    ],
)
def test_only_what_is_known_to_be_the_object_is_kept(
    params: Path,
    listed: ListedAdapter,
    tmp_path: Path,
    bucket: SeaweedServer,
    fetched: list[str],
    suffix: str,
    spoil: Callable[[Path], object],
    times: int,
) -> None:
    """A kill or a power cut may leave an object, its mark, or part of one."""
    listed.records = in_bucket(bucket, 61)
    bucket.client().put_object(Bucket="factory", Key="shots/61.png", Body=b"not an image")
    for attempt in range(2):
        with pytest.raises(UserError, match="unusable images"):
            add_line(params, NewLine("lids", tmp_path, "coco"))
        if attempt == 0:
            kept = list((params.parent / "data" / "lines" / "lids" / ".import.fetched").iterdir())
            spoil(next(path for path in kept if path.suffix == suffix))
    assert len(fetched) == times


def test_wrong_secret_and_unreachable_store(
    params: Path, listed: ListedAdapter, tmp_path: Path, bucket: SeaweedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed.records = in_bucket(bucket, 21)
    line = NewLine("lids", tmp_path, "coco")
    with monkeypatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
        with pytest.raises(UserError, match=r"s3://factory/shots/21\.png: .*AWS_SECRET_ACCESS_KEY") as caught:
            add_line(params, line)
        assert "wrong-secret" not in str(caught.value)
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        with pytest.raises(UserError, match=r"cannot be reached.*tried 2 times.*then run the command again"):
            add_line(params, line)
    assert [path.name for path in params.parent.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize(("exchanged", "offsets"), [(False, [0, 100]), (True, [0, 100, 0])])
def test_a_transfer_that_breaks_goes_on(
    params: Path,
    listed: ListedAdapter,
    tmp_path: Path,
    bucket: SeaweedServer,
    monkeypatch: pytest.MonkeyPatch,
    exchanged: bool,
    offsets: list[int],
) -> None:
    """Where it broke, or from the beginning if the object is another one by then."""
    monkeypatch.setattr(s3, "Patience", lambda: Patience(attempts=3, pause=0.01, timeout=2))
    listed.records = in_bucket(bucket, 31)
    asked: list[int] = []
    original = s3.s3_opener

    class Breaking:
        def __init__(self, stream: s3.ByteStream) -> None:
            self.stream, self.given = stream, 0

        def read(self, size: int, /) -> bytes:
            if self.given and len(asked) == 1:
                if exchanged:
                    bucket.client().put_object(Bucket="factory", Key="shots/31.png", Body=png(32))
                raise s3.TransferInterruptedError("the connection broke: test")
            self.given += 100
            return self.stream.read(100)

    def opener(address: str, timeout: float, client: object = None) -> s3.RangeOpener:
        open_at = original(address, timeout, client)

        class Opening:
            def __init__(self, offset: int) -> None:
                asked.append(offset)
                self.inner = open_at(offset)

            def __enter__(self) -> s3.Opened:
                opened = self.inner.__enter__()
                return replace(opened, stream=Breaking(opened.stream))

            def __exit__(self, *error: object) -> None:
                self.inner.__exit__(*error)

        return Opening

    monkeypatch.setattr(s3, "s3_opener", opener)
    add_line(params, NewLine("lids", tmp_path, "coco"))
    assert asked == offsets
    assert content(images_of(load_line(params, "lids"))) == {"31.png": png(32 if exchanged else 31)}
