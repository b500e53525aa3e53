"""Settings: layers merge, mistakes are named by their dotted path."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from stlm_core.config import (
    SECTIONS,
    TRAINED_SECTIONS,
    as_parameter,
    decides_the_model,
    deep_merge,
    line_from_sections,
    line_names,
    load_line,
)
from stlm_core.errors import UserError
from stlm_core.settings_section import NO_BEARING

BASE = {
    "defaults": {"distill": {"steps": 10, "batch_size": 2}},
    "profiles": {"fast": {"distill": {"steps": 20}}, "gpu": {"image": {"size": 1024}}},
    "lines": {"a": {"profile": "fast", "data": {"path": "images"}, "distill": {"batch_size": 3}}},
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
        (changed(profile="tpu"), r"lines\.a\.profile: no profile `tpu` \(known: fast, gpu\)"),
        (changed(data={"path": "x", "group_pattern": "("}), "group_pattern is not a regular expression"),
        (changed(data={"path": "x", "group_pattern": "abc"}), "exactly one capture group"),
        ({**BASE, "lines": {"a": {"profile": "fast"}}}, r"`data\.path`: Field required"),
        ({"defaults": {}, "lines": {}}, "needs a mapping `profiles`"),
        ([1, 2], "needs a mapping `defaults`"),
    ],
)
def test_a_mistake_is_named(tmp_path, tree, message):
    with pytest.raises(UserError, match=message):
        load_line(write(tmp_path, tree), "a")


ALONE = {"plain_stream": "teacher", "init": "lite_medsam", "aggregation": "decoder", "denoising_stream": False}


@pytest.mark.parametrize("fa", [{"joint_finetune": True}, {}])
def test_without_a_trained_stream_nothing_is_fine_tuned_jointly(tmp_path, fa):
    with pytest.raises(UserError, match=r"lines\.a: `fa\.joint_finetune`: .* model\.denoising_stream: false"):
        load_line(write(tmp_path, changed(model=ALONE, fa=fa)), "a")
    config = load_line(write(tmp_path, changed(model=ALONE, fa={"joint_finetune": False})), "a")
    assert not config.fa.joint_finetune


def test_a_container_without_one_of_two_sections_does_not_judge_them_by_its_default(tmp_path):
    config = load_line(write(tmp_path, changed(model=ALONE, fa={"joint_finetune": False})), "a")
    sections = config.model_dump(mode="json", by_alias=True)
    model, fa = as_parameter(sections["model"]), as_parameter(sections["fa"])
    assert line_from_sections("a", {"model": model}, tmp_path).fa.joint_finetune
    assert line_from_sections("a", {"model": model, "fa": fa}, tmp_path).fa == config.fa
    with pytest.raises(UserError, match=r"line a: `fa\.joint_finetune`"):
        line_from_sections("a", {"model": model, "fa": {**fa, "joint_finetune": True}}, tmp_path)


def test_fresh_views_need_validation_images(tmp_path):
    data, none = {"path": "images", "validation_fraction": 0.01}, {"path": "images", "validation_fraction": 0}
    assert load_line(write(tmp_path, changed(data=none)), "a").data.validation_fraction == 0
    assert load_line(write(tmp_path, changed(data=data, synthesize={"fresh": True})), "a").synthesize.fresh
    with pytest.raises(UserError, match=r"lines\.a: `data\.validation_fraction`: 0 .* synthesize\.fresh: true"):
        load_line(write(tmp_path, changed(data=none, synthesize={"fresh": True})), "a")


@pytest.mark.parametrize(
    ("written", "read"),
    [("images/", "images"), ("./images", "images"), ("a//b/./c/", "a/b/c"), ("../x/", "../x"), ("/x/", "/x"), ("", "")],
)
def test_paths_of_the_data_have_one_spelling(tmp_path, written, read):
    data = {"path": written, "catalog": written, "group_file": written}
    found = load_line(write(tmp_path, changed(data=data)), "a").data
    assert (found.path, found.catalog, found.group_file) == (read, read, read)


def test_broken_yaml_names_the_line(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("defaults:\n  a: [1\nb")
    with pytest.raises(UserError, match=r"params\.yaml: not valid YAML \(line \d\)"):
        load_line(path, "a")


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ("defaults: {}\nprofiles: {fast: {}}\nlines:\n  a:\n    data:\n      path: x\n      path: y\n", 7, "path"),
        ("defaults: {}\nprofiles: {fast: {}}\nlines:\n  a: {data: {path: x}}\n  'a': {data: {path: y}}\n", 5, "a"),
        ("defaults: {}\nprofiles: {fast: {}}\nlines: {a: {data: {path: x}}}\ndefaults: {}\n", 4, "defaults"),
    ],
)
def test_a_key_that_is_there_twice_is_named_with_its_line(tmp_path, text, line, key):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"params\.yaml: .*\(line {line}\): the key `{key}` is there twice"):
        load_line(path, "a")


def test_a_merged_mapping_may_have_a_key_of_its_own(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(
        "defaults: {}\nprofiles: {fast: {}}\nlines:\n"
        "  c: &c {data: &shared {path: x, license: MIT}}\n"
        "  a: {<<: *c, data: &own {<<: *shared, path: y}}\n"
        "  b: {<<: *c, data: {<<: *own, path: z}}\n"
    )
    read = [load_line(path, name).data for name in "cab"]
    assert [(data.path, data.license) for data in read] == [("x", "MIT"), ("y", "MIT"), ("z", "MIT")]


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


TOP = "defaults: {}\nprofiles: {fast: {}}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: \0", "not valid YAML: unacceptable character #x0000"),
        ("[" * 3000, "not valid YAML: maximum recursion depth"),
        ("since: 2001-99-99", "not valid YAML: month must be in 1..12"),
        ("a: !!timestamp x", "not valid YAML: "),
        (f"steps: {'9' * 5000}", "not valid YAML: Exceeds the limit"),
        (f"{TOP}lines: {{1: {{data: {{path: x}}}}}}", "lines: the name 1 is not a text; put it in quotes"),
        (f"{TOP}lines: {{a: x}}", r"lines\.a: not a mapping of settings"),
        ("defaults: {}\nprofiles: {fast: x}\nlines: {a: {}}", r"profiles\.fast: not a mapping of settings"),
        (f"{TOP}lines: {{a: {{profile: [cpu]}}}}", r"no profile `\['cpu'\]` \(known: fast\)"),
        (f'{TOP}lines: {{a: {{profile: "c\\np"}}}}', r"no profile `c\\np` \(known: fast\)"),
        (f'{TOP}lines: {{a: {{"x\\ny": 1, data: {{path: x}}}}}}', r"`x\\ny`: Extra inputs are not permitted"),
        (f"{TOP}lines: {{a: {{profile: {'p' * 90_000}}}}}", r"no profile `p{300}\.\.\.`"),
    ],
)
def test_any_text_that_is_no_settings_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_line(path, "a")
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("path", ["a\0b", "~nobody-has-this-name/images"])
def test_a_path_that_cannot_be_is_refused(tmp_path, path):
    config = load_line(write(tmp_path, changed(data={"path": path})), "a")
    with pytest.raises(UserError, match=r"line a: '.*' is not a path: "):
        config.resolve(config.data.path)


PIECES = st.sampled_from(
    [*"\0\n\t:-?&*!%[]{}\",'~#|>", "<<: ", "!!int ", "!!binary x", "2001-99-99", "\\e", "[" * 2000]
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 9), PIECES | st.text(max_size=3)), min_size=1, max_size=4)
)
def test_spoilt_settings_are_read_or_refused_in_one_line(tmp_path_factory, edits):
    text = yaml.safe_dump(BASE)
    for where, length, piece in edits:
        text = text[:where] + piece + text[where + length :]
    path = tmp_path_factory.getbasetemp() / "spoilt.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    refused = ""
    try:
        for line in line_names(path):
            config = load_line(path, line)
            config.resolve(config.data.path)
    except UserError as error:
        refused = str(error)
    assert len(refused) < 2000
    assert "\n" not in refused


def test_section_hash_changes_with_its_section_only(tmp_path):
    one = load_line(write(tmp_path, BASE), "a")
    other = load_line(write(tmp_path, changed(distill={"batch_size": 4})), "a")
    assert one.section_hash("distill") != other.section_hash("distill")
    assert one.section_hash("image", "fa") == other.section_hash("fa", "image")


def test_the_hash_of_the_model_leaves_out_how_the_work_is_done(tmp_path):
    one = load_line(write(tmp_path, BASE), "a")
    same = {
        "data": {"path": "images", "retrain_share": 0.5},
        "validate": {"drift": "off"},
        "distill": {"batch_size": 3, "checkpoint_every": 7},
        "evaluate": {"report_images": 1},
        "promote": {"automatic": False},
    }
    assert load_line(write(tmp_path, changed(**same)), "a").model_hash() == one.model_hash()
    for other in ({"validate": {"min_side": 48}}, {"fa": {"seed": 7}}, {"distill": {"batch_size": 4}}):
        assert load_line(write(tmp_path, changed(**other)), "a").model_hash() != one.model_hash()
    known = {
        f"{section}.{name}"
        for section, values in one.model_dump(by_alias=True).items()
        if section in SECTIONS
        for name in values
    }
    idle = {name for name in known if name.partition(".")[0] in TRAINED_SECTIONS and not decides_the_model(name)}
    assert idle == NO_BEARING


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
