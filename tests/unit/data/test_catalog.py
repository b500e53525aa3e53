"""The catalogue: a table that says exactly what it said, or why it cannot be trusted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stlm_core.data.catalog import Catalog, CatalogRow, publish
from stlm_core.errors import UserError
from stlm_core.files import sha256_file

SHA, OTHER = "a" * 64, "b" * 64
ROW = CatalogRow("train/good/1.png", "train", 0, "good", "", "part 1", SHA, "", 0)
DEFECT = CatalogRow("test/dent/1.png", "test", 1, "dent", "ground_truth/dent/1_mask.png", "", OTHER, SHA, 2)
HEADER = "path,split,label,defect_type,mask_path,group,sha256,mask_sha256,batch"

NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=12)
PATHS = NAMES.filter(lambda name: name not in (".", "..") and "/" not in name)


@given(st.dictionaries(PATHS, st.tuples(NAMES, NAMES), max_size=8))
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, names: dict[str, tuple[str, str]]
) -> None:
    catalog = Catalog.of(
        replace(ROW, path=f"x/{path}", defect_type=defect, group=group) for path, (defect, group) in names.items()
    )
    file = tmp_path_factory.mktemp("catalogue") / "catalog.csv"
    catalog.write(file)
    assert Catalog.read(file, catalog.digest()) == catalog
    assert sha256_file(file) == catalog.digest()


def test_rows_are_sorted_and_become_records(tmp_path: Path) -> None:
    catalog = Catalog.of([ROW, DEFECT])
    assert [row.path for row in catalog.rows] == ["test/dent/1.png", "train/good/1.png"]
    records = catalog.scan().records
    assert [(record.path, record.split, record.label, record.mask_path, record.group) for record in records] == [
        ("test/dent/1.png", "test", 1, "ground_truth/dent/1_mask.png", ""),
        ("train/good/1.png", "train", 0, "", "part 1"),
    ]
    assert catalog.to_bytes().decode().splitlines()[0] == HEADER


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "cannot be read as CSV"),
        ("path,split\n", "not a catalogue: columns path, split"),
        (f"{HEADER}\na.png,train\n", "row 2: 2 columns instead of 9"),
        (f"{HEADER}\n../a.png,train,0,good,,,{SHA},,0\n", "row 2: a path that leaves"),
        (f"{HEADER}\n/a.png,train,0,good,,,{SHA},,0\n", "row 2: a path that leaves"),
        (f"{HEADER}\na.png,test,1,dent,../m.png,,{SHA},{SHA},0\n", "row 2: a path that leaves"),
        (f"{HEADER}\na.png,train,1,good,,,{SHA},,0\n", "split 'train' with label '1'"),
        (f"{HEADER}\na.png,validation,0,good,,,{SHA},,0\n", "split 'validation'"),
        (f"{HEADER}\na.png,train,0,good,,,{SHA[1:]},,0\n", "a sha256 that is none"),
        (f"{HEADER}\na.png,test,1,dent,m.png,,{SHA},,0\n", "a sha256 that is none"),
        (f"{HEADER}\na.png,test,1,dent,,,{SHA},x,0\n", "a sha256 that is none"),
        (f"{HEADER}\na.png,train,0,good,,,{SHA},,-1\n", "batch '-1' is not a number"),
        (f"{HEADER}\na.png,train,0,good,,,{SHA},,²\n", "batch '²' is not a number"),
        (f"{HEADER}\nb.png,train,0,good,,,{SHA},,0\na.png,train,0,good,,,{SHA},,0\n", "a.png: rows out of order"),
        (f"{HEADER}\na.png,train,0,good,,,{SHA},,0\na.png,train,0,good,,,{SHA},,0\n", "out of order or repeated"),
        (f'{HEADER}\n"a.png,train\n', "cannot be read as CSV"),
    ],
)
def test_a_table_that_cannot_be_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    file = tmp_path / "catalog.csv"
    file.write_text(content)
    with pytest.raises(UserError, match=reason) as caught:
        Catalog.read(file)
    assert str(file) in str(caught.value)


def test_missing_binary_or_edited(tmp_path: Path) -> None:
    file = tmp_path / "catalog.csv"
    with pytest.raises(UserError, match="no such file; the line's catalogue is under version control"):
        Catalog.read(file)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read as CSV"):
        Catalog.read(file)
    catalog = Catalog.of([ROW])
    Catalog.of([DEFECT]).write(file)
    with pytest.raises(UserError, match=r"not the catalogue that `data\.catalog_sha256` names"):
        Catalog.read(file, catalog.digest())


def test_readers_find_the_version_they_ask_for_while_it_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "catalog.csv"
    old, new, abandoned = Catalog.of([ROW]), Catalog.of([ROW, DEFECT]), Catalog.of([DEFECT])
    old.write(file)
    abandoned.stage(file)
    new.stage(file)
    assert Catalog.read(file, old.digest()) == old
    assert Catalog.read(file, new.digest()) == new
    assert Catalog.read(file) == old
    for _ in range(2):  # again after a kill changes nothing
        publish(file, new.digest())
        assert [path.name for path in tmp_path.iterdir()] == ["catalog.csv"]
        assert Catalog.read(file, new.digest()) == new
