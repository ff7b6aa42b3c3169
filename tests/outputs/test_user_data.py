"""Files that a person gives, damaged at random: each is read, or refused in one sentence."""

import json
import random
import shutil
import sqlite3

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from usam_core.config.images import ImagePlace, ImagesConfig
from usam_core.config.project import load_project
from usam_core.config.schema import ClassSpec
from usam_core.errors import ConfigError, InputError, StoreError, UsamError
from usam_core.images.listing.lists import read_names
from usam_core.images.listing.walk import below
from usam_core.masks.rle import decode, encode
from usam_core.outputs.ledger import Ledger
from usam_core.progress import SILENT
from usam_core.review.decisions import Decision, append_decision, append_undo, read_all, standing
from usam_core.sources.local import FolderSource, class_table
from usam_core.sources.web.source import read_url_list
from usam_core.steps import intact, run_step, step_folder
from usam_core.steps.record import (
    StepResult,
    decisions_digest,
    notes_on_decisions,
    read_record,
    write_record,
)

PROJECT = """\
classes: [dog, {name: cat, parent: pet, colour: "#ff0000"}]
negatives: [grass]
images: {path: images, include: ["*.png"], max_megapixels: 3.5}
training: {source: render}
head: {hidden: [32, 16, 8], dropout: 0.2}
outputs: {path: out, formats: [coco, yolo]}
"""
ODD = [
    *("yes", "~", "1", "1.5", "2024-01-01", "[]", "{}", "''", "!!bool x", "!!int x"),
    *("!!timestamp x", "!!python/name:os.system ''", "&a [*a]", "*a", "<<", "? [a]", "!!set {a}"),
    *("!!binary 'é'", '"\\0"', '"\\ud800"', "9" * 5000, "1e400", ".nan", "\t", "\0", "\x07"),
    *("\ufeff", "'", "a: b: c", "x" * 5000, "../" * 2000, "a/" * 3000, "{a: 1, a: 2}", "[[[["),
    *("!!omap [a]", "%YAML 3"),
]
MIN = "classes: [dog]\nimages: {path: images}\ntraining: {source: render}\n"


def sentence(read):
    """Return what was refused, or None; anything but our own errors is a failure."""
    try:
        read()
    except UsamError as error:
        assert error.exit_code in (1, 2)  # noqa: PT017
        return str(error)
    return None


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Return bytes with some of them changed, lost, doubled, or in another encoding."""
    how = rng.choice(["flip", "cut", "double", "bom", "utf16", "nul", "tabs"])
    if how in ("flip", "nul"):
        changed = bytearray(content)
        for _ in range(rng.choice([1, 5, 50])):
            changed[rng.randrange(len(changed))] = 0 if how == "nul" else rng.randrange(256)
        return bytes(changed)
    at = rng.randrange(len(content))
    if how == "cut":
        return content[:at]
    if how == "double":
        return content[:at] + content[rng.randrange(len(content)) :]
    if how == "tabs":
        return content.replace(b" ", b"\t").replace(b",", b";")
    return b"\xef\xbb\xbf" + content if how == "bom" else content.decode().encode("utf-16")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images" / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png"):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "images" / name)
    return tmp_path


@pytest.fixture
def project_of(folder):
    """Return what reads a project file of some text."""

    def load(text):
        file = folder / "project.yaml"
        file.write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
        return load_project(file)

    return load


def test_a_project_file_damaged_anyhow_is_read_or_refused(project_of):
    rng = random.Random(7)
    for _ in range(150):
        lines = PROJECT.splitlines()
        at = rng.randrange(len(lines))
        key, mark, value = lines[at].partition(": ")
        lines[at] = key + mark + rng.choice([rng.choice(ODD), value + rng.choice(ODD)])
        text = "\n".join(lines).encode("utf-8", "surrogatepass")
        said = sentence(lambda text=text: project_of(text))
        assert said is None or "project.yaml" in said
        sentence(lambda: project_of(damaged(PROJECT.encode(), rng)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: !!bool x", r"project.yaml:4: not valid YAML: .* read as bool; put it in quotes"),
        ("name: !!timestamp x", "read as timestamp; put it in quotes"),
        ("name: !!python/object/apply:os.system [x]", "4: not valid YAML: .*; take the tag"),
        ("name: &a [*a]", "4: not valid YAML: aliases .* write it out"),
        ("name: " + "9" * 5000, "4: not valid YAML: .*as int"),
        ("name: " + "[" * 100_000, "nested too deep"),
        ("<<: 3", "4: not valid YAML: .*merging"),
        ("name:\n\t- a", "5: not valid YAML: .*indent with spaces"),
        ('name: "\\0"', "4: not valid YAML: .*NUL"),
        ('name: "\\ud800"', "4: not valid YAML: .*half a character"),
        ("name: \0", "4: not valid YAML: .*control characters"),
        ("name: \ud800", "4: no text in UTF-8"),
        ("outputs: {path: " + "a" * 300 + "}", "4: outputs.path: .*File name too long"),
        ("outputs: {path: images/a.png/x}", "4: outputs.path: .*Not a directory"),
        ("sam: {checkpoint: " + "a" * 300 + "}", "4: sam.checkpoint: .*expected a file"),
    ],
)
def test_a_project_file_that_is_no_yaml_says_where_and_why(project_of, text, said):
    with pytest.raises(ConfigError, match=said):
        project_of(MIN + text + "\n")


def test_aliases_that_stand_for_billions_are_refused_and_a_few_are_read(project_of):
    bomb = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    bomb += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    with pytest.raises(ConfigError, match="aliases"):
        project_of(MIN + "\n".join(bomb))
    merged = ["a0: &a0 {x: 1}"]
    merged += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 12)]
    with pytest.raises(ConfigError, match="aliases"):
        project_of(MIN + "\n".join(merged))
    shared = "classes: [{name: a, queries: &q [x]}, {name: b, queries: *q}]\n"
    read = project_of(shared + MIN.partition("\n")[2])
    assert [spec.queries for spec in read.config.classes] == [["x"], ["x"]]


def test_a_project_file_may_begin_with_a_byte_order_mark(project_of):
    assert project_of(b"\xef\xbb\xbf" + MIN.encode()).config.label_names == ["dog"]


def test_what_lies_where_the_project_file_should_is_told(folder):
    for path in (folder, folder / ("a" * 300), folder / "a\0b", folder / "images/a.png/x.yaml"):
        with pytest.raises(ConfigError, match="cannot read"):
            load_project(path)


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ("[yes, 1, null]", r"classes\[0\]: got True; .*put it in quotes"),
        ("[yes, 1, null]", r"classes\[2\]: got None; .*put it in quotes"),
        ("[2024-01-01]", r"classes\[0\]: got .*put it in quotes"),
        ("[{name: 3}]", r"classes\[0\].name: got 3; .*put it in quotes"),
        ("[{name: dog, synonyms: [no]}]", "got False; .*put it in quotes"),
        ("[tv/monitor]", "got 'tv/monitor'; expected a name without slashes .*folders"),
        ('["a\\tb"]', "control characters"),
        ("[{name: dog, colour: red}]", "got 'red'; expected a colour as #rrggbb"),
        ("[{name: a, parent: Pet}, {name: b, parent: pet}]", "got 'pet', elsewhere 'Pet'"),
    ],
)
def test_a_class_that_is_no_name_is_told_in_words(project_of, classes, said):
    with pytest.raises(ConfigError, match=said) as caught:
        project_of(f"classes: {classes}\n" + MIN.partition("\n")[2])
    assert "^" not in str(caught.value)


DOG = ClassSpec(name="dog", synonyms=["hound"])


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_tables_are_read_between_commas_semicolons_and_tabs(tmp_path, separator, mark):
    file = tmp_path / "t.csv"
    rows = [
        ["Class ", "path", "url"],
        ["Dog ", "a b.png", "http://x/1"],
        ["HOUND", "c.png", "http://x/2"],
    ]
    file.write_text(mark + "\n\n".join(separator.join(row) for row in rows), encoding="utf-8")
    assert list(class_table(file, "path", DOG)["path"]) == ["a b.png", "c.png"]
    assert [one.url for one in read_url_list(file, DOG)] == ["http://x/1", "http://x/2"]


def test_a_row_with_more_values_than_columns_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("class,path\ndog,a,b.png\n")
    with pytest.raises(InputError, match="more values than there are columns"):
        class_table(tmp_path / "t.csv", "path", DOG)


def test_training_pictures_of_a_csv_are_found_however_their_paths_are_written(folder):
    picture = folder / "images" / "sub" / "b.png"
    rows = f"class;path\ndog;images\\sub\\b.png\ndog;file://{folder}/images/a.png\n"
    (folder / "t.csv").write_text(rows)
    source = FolderSource(folder / "t.csv", ImagesConfig(path="x"), folder / "cache")
    found = [one.path for one in source.collect(DOG, SILENT).pictures]
    found += [one.origin for one in source.collect(DOG, SILENT).rejected]
    assert found == [str(picture), str(folder / "images" / "a.png")]


def lists(folder):
    names = ["a.png", "sub/b.png"]
    table = pd.DataFrame({"path": names, "x": [1, 2]})
    table.to_csv(folder / "l.csv", index=False)
    table.to_parquet(folder / "l.parquet", index=False)
    (folder / "l.txt").write_text("\n".join(names))
    images = [{"id": n, "file_name": name} for n, name in enumerate(names)]
    (folder / "l.json").write_text(json.dumps({"images": images}))
    return [folder / f"l.{ending}" for ending in ("csv", "parquet", "txt", "json")]


def test_lists_of_images_damaged_anyhow_are_read_or_refused(folder):
    rng = random.Random(3)
    for file in lists(folder):
        content = file.read_bytes()
        for _ in range(60):
            if file.suffix == ".parquet":
                changed = bytearray(content)
                changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
                file.write_bytes(bytes(changed))
            else:
                file.write_bytes(damaged(content, rng))
            place = ImagePlace(str(folder / "images"), str(file))
            said = sentence(lambda place=place: read_names(place, [".png"]))
            assert said is None or file.name in said


@pytest.mark.parametrize(
    "written",
    [
        "sub\\b.png",
        "{root}/sub/b.png",
        "file://{root}/sub/b.png",
        "images/sub/b.png",
        "./sub/b.png",
    ],
)
def test_a_listed_image_is_found_however_its_path_is_written(folder, written):
    root = str(folder / "images")
    (folder / "l.txt").write_text(written.format(root=root))
    assert read_names(ImagePlace(root, str(folder / "l.txt")), [".png"]) == ["sub/b.png"]


@pytest.mark.parametrize("written", ["C:\\x\\b.png", "/elsewhere/b.png", "..\\b.png", "a\0b", ""])
def test_a_path_that_leads_elsewhere_is_refused(folder, written):
    (folder / "l.json").write_text(json.dumps({"images": [{"file_name": written}]}))
    place = ImagePlace(str(folder / "images"), str(folder / "l.json"))
    with pytest.raises(InputError, match=r"images\[0\]: got"):
        read_names(place, [".png"])


def test_a_backslash_in_a_files_own_name_stays(folder):
    (folder / "images" / "sub\\b.png").write_bytes(b"x")
    (folder / "l.txt").write_text("sub\\b.png")
    place = ImagePlace(str(folder / "images"), str(folder / "l.txt"))
    assert read_names(place, [".png"]) == ["sub\\b.png"]
    assert below("s3://lab/plates/a.png", "s3://lab/plates") == "a.png"


def decision(number, name="a\u2028b.png"):
    mask = np.zeros((8, 9), bool)
    mask[number : number + 3] = True
    given = {"time": "t", "sha256": "0" * 64, "prompt": 3, "head_class": "dog", "sampled": False}
    return Decision(id=f"d{number}", file_name=name, mask=encode(mask), label="dog", **given)


def test_a_decision_of_a_file_with_a_line_separator_in_its_name_is_kept(tmp_path):
    append_decision(tmp_path / "log", decision(0))
    assert read_all(tmp_path / "log") == [decision(0)]


def test_logs_of_decisions_damaged_anyhow_lose_only_what_is_damaged(tmp_path):
    rng, log = random.Random(5), tmp_path / "decisions.jsonl"
    for number in range(4):
        append_decision(log, decision(number))
    append_undo(log, "d3")
    lines = log.read_text(encoding="utf-8").split("\n")[:-1]
    odd = [None, -1, 10**12, 1e308, "", [], {}, True, [10**9, 10**9], [-1, -1], ["8", 9], "~" * 99]
    for _ in range(300):
        given = [json.loads(line) for line in lines]
        one = rng.choice(given)
        part = one["mask"] if "mask" in one and rng.random() < 0.5 else one
        part[rng.choice(list(part))] = rng.choice(odd)
        content = "\n".join(map(json.dumps, given)).encode()
        log.write_bytes(damaged(content, rng) if rng.random() < 0.5 else content)
        found = standing(read_all(log))
        decisions_digest(found)
        for each in found:
            assert decode(each.mask).shape == tuple(each.mask["size"])


def test_a_line_that_is_no_decision_is_noted_and_stays(project_file):
    project = load_project(project_file)
    log = project.out / "review" / "decisions.jsonl"
    log.parent.mkdir(parents=True)
    log.write_bytes(b'{"undo": []}\n')
    (note,) = notes_on_decisions(project.out)
    assert note.endswith("line 1")
    assert note in run_step("annotate", project).summary["notes"]
    assert log.read_bytes() == b'{"undo": []}\n'
    log.unlink()
    log.mkdir()
    with pytest.raises(InputError, match=r"decisions\.jsonl: cannot be read"):
        run_step("annotate", project)


@pytest.mark.parametrize("how", ["text", "cut", "other", "folder"])
def test_a_ledger_that_is_none_is_told(tmp_path, how):
    file = tmp_path / "ledger.sqlite"
    with Ledger(file):
        pass
    if how == "text":
        file.write_text("no database" * 100)
    elif how == "cut":
        file.write_bytes(file.read_bytes()[:5000])
    else:
        file.unlink()
    if how == "folder":
        file.mkdir()
    if how == "other":
        base = sqlite3.connect(file)
        base.execute("CREATE TABLE part (x)")
        base.close()
    told = r"ledger\.sqlite: .*check --repair"
    with pytest.raises(StoreError, match=told), Ledger(file) as ledger:
        ledger.formats()


def test_a_record_that_was_changed_is_none(tmp_path):
    result = StepResult("fit", "k", False, "p", {"notes": [], 3: 0.1}, {"a": "b"})
    write_record(tmp_path, result)
    assert read_record(tmp_path).outputs == {"a": "b"}
    file, rng = tmp_path / "record.json", random.Random(1)
    content = file.read_bytes()
    for _ in range(200):
        file.write_bytes(damaged(content, rng))
        found = read_record(tmp_path)
        assert found is None or found.to_json() == json.loads(json.dumps(result.to_json()))
    for value in ([], None, 3, {"step": "fit"}, {**json.loads(content), "outputs": []}):
        file.write_text(json.dumps(value))
        assert read_record(tmp_path) is None


def test_a_part_with_other_types_is_labelled_again(project_file):
    project = load_project(project_file)
    folder = step_folder(project, "annotate")
    part = next((folder / "parts").glob("*.parquet"))
    before = part.read_bytes()
    table = pq.read_table(part)
    other = pa.array(["x"] * len(table))
    pq.write_table(table.set_column(table.column_names.index("height"), "height", other), part)
    with pytest.raises(StoreError, match="damaged since it was written; run `usam annotate`"):
        run_step("evaluate", project, refresh=True)
    assert intact("annotate", project) is None
    assert run_step("annotate", project).summary["labelled"] > 0
    assert part.read_bytes() == before
    run_step("evaluate", project, refresh=True)


@pytest.mark.parametrize("step", ["collect", "embed", "compose", "fit", "annotate", "evaluate"])
def test_a_file_where_a_steps_folder_should_be_is_told(project_file, step):
    project = load_project(project_file)
    shutil.rmtree(project.out / step)
    (project.out / step).write_text("in the way")
    with pytest.raises(StoreError, match=rf"out/{step}.*move away what lies there"):
        run_step(step, project)


def test_a_folder_where_a_file_should_be_is_told(project_file):
    root = project_file.parent
    (root / "folder.png").mkdir()
    values = yaml.safe_load(project_file.read_text())
    for place in (
        {"evaluation": {"format": "coco", "path": "folder.png"}},
        {"evaluation": {"format": "voc", "path": "project.yaml"}},
        {"images": {"path": "project.yaml"}},
        {"images": {"path": "images", "files": "folder.png"}},
        {"sam": {"checkpoint": "folder.png"}},
    ):
        other = root / "other.yaml"
        other.write_text(yaml.safe_dump({**values, **place}))
        with pytest.raises(ConfigError, match=r"other\.yaml:\d+: .*expected"):
            load_project(other)
