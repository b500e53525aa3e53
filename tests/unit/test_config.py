"""Settings: layers merge, mistakes are named by their dotted path."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from stlm_core.config import SECTIONS, deep_merge, line_names, load_line
from stlm_core.errors import UserError

BASE = {
    "defaults": {"distill": {"steps": 10, "batch_size": 2}},
    "profiles": {"cpu": {"distill": {"steps": 20}}, "gpu": {"image": {"size": 1024}}},
    "lines": {"a": {"profile": "cpu", "data": {"path": "images"}, "distill": {"batch_size": 3}}},
}


def write(folder, tree):
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def changed(**line):
    return {**BASE, "lines": {"a": {**BASE["lines"]["a"], **line}}}


def test_a_line_overrides_its_profile_which_overrides_the_defaults(tmp_path):
    config = load_line(write(tmp_path, BASE), "a")
    assert (config.distill.steps, config.distill.batch_size) == (20, 3)
    assert config.resolve(config.data.path) == tmp_path / "images"
    assert config.resolve("/elsewhere").as_posix() == "/elsewhere"


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (changed(distill={"stepz": 3}), r"lines\.a: `distill\.stepz`: Extra inputs are not permitted"),
        (changed(distill={"steps": 0}), r"`distill\.steps`: Input should be greater than or equal to 1"),
        (changed(distill={"steps": "many"}), r"`distill\.steps`: Input should be a valid integer"),
        (changed(distil={}), r"`distil`: Extra inputs"),
        (changed(profile="tpu"), r"lines\.a\.profile: no profile `tpu` \(known: cpu, gpu\)"),
        (changed(data={"path": "x", "group_pattern": "("}), "group_pattern is not a regular expression"),
        (changed(data={"path": "x", "group_pattern": "abc"}), "exactly one capture group"),
        ({**BASE, "lines": {"a": {"profile": "cpu"}}}, r"`data\.path`: Field required"),
        ({"defaults": {}, "lines": {}}, "needs a mapping `profiles`"),
        ([1, 2], "needs a mapping `defaults`"),
    ],
)
def test_a_mistake_is_named(tmp_path, tree, message):
    with pytest.raises(UserError, match=message):
        load_line(write(tmp_path, tree), "a")


def test_broken_yaml_names_the_line(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("defaults:\n  a: [1\nb")
    with pytest.raises(UserError, match=r"params\.yaml: not valid YAML \(line \d\)"):
        load_line(path, "a")


def test_missing_file_and_unknown_line_say_what_to_do(tmp_path):
    with pytest.raises(UserError, match="run from the project folder or pass --params"):
        load_line(tmp_path / "none.yaml", "a")
    with pytest.raises(UserError, match=r"no line `b` \(known: a\); add it with `stlm lines add`"):
        load_line(write(tmp_path, BASE), "b")


@pytest.mark.parametrize("name", ["Up", "a/b", "../x", "-a", "a" * 65, ""])
def test_line_names_that_could_leave_their_folder_are_refused(tmp_path, name):
    tree = {**BASE, "lines": {name: BASE["lines"]["a"]}}
    with pytest.raises(UserError, match="line name"):
        load_line(write(tmp_path, tree), name)


def test_section_hash_changes_with_its_section_only(tmp_path):
    one = load_line(write(tmp_path, BASE), "a")
    other = load_line(write(tmp_path, changed(distill={"batch_size": 4})), "a")
    assert one.section_hash("distill") != other.section_hash("distill")
    assert one.section_hash("image", "fa") == other.section_hash("fa", "image")


def test_the_projects_own_params_are_valid(repository):
    for line in line_names(repository / "params.yaml"):
        assert load_line(repository / "params.yaml", line).name == line


def test_every_section_is_in_the_tree(tmp_path):
    config = load_line(write(tmp_path, BASE), "a")
    assert set(config.model_dump(by_alias=True)) == {*SECTIONS, "name", "profile", "root"}


TREES = st.recursive(
    st.integers(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=8
).filter(lambda tree: isinstance(tree, dict))


@given(TREES, TREES)
def test_merging_keeps_every_override_and_changes_neither_input(base, override):
    before = yaml.safe_dump([base, override])
    merged = deep_merge(base, override)
    assert deep_merge(merged, override) == merged
    assert set(merged) == set(base) | set(override)
    assert deep_merge({}, base) == base
    assert yaml.safe_dump([base, override]) == before
