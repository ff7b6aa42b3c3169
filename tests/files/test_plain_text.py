"""What users write stays text, in spreadsheets and in Markdown; no message holds a secret."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from tests.export_data import image_of, target_in
from usam_core.config.project import load_project
from usam_core.config.schema import ClassSpec
from usam_core.errors import (
    ConfigError,
    InputError,
    UsamError,
    all_without_secrets,
    without_secrets,
)
from usam_core.files.spreadsheet import as_text, as_written, read_csv, write_csv
from usam_core.files.text import markdown
from usam_core.outputs.formats import open_writer
from usam_core.sources.local import class_table
from usam_core.sources.web.guard import FetchFailed
from usam_core.sources.web.journal import Candidate, Verdict
from usam_core.sources.web.source import sort_out

few = settings(max_examples=60, deadline=None)
FORMULAS = ["=1+1", "+1-cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "'=1", "＝1", "''"]
nasty = st.one_of(
    st.sampled_from([*FORMULAS, "null", "nan", "1", "-5", "1e3"]),
    st.text(st.sampled_from("=+-@\t\r'\"aé1,;\n "), min_size=1, max_size=8),
)


def is_number(text):
    try:
        return np.isfinite(float(text))
    except ValueError:
        return False


@few
@given(nasty)
def test_no_cell_begins_as_a_formula_does_and_each_is_read_back(text):
    cell = as_text(text)
    assert as_written(cell) == text
    assert cell[0] not in "=+-@\t\r\n＝＋－＠" or is_number(cell)


def test_numbers_stay_numbers():
    numbers = [-1.5, -3, None, "-3", "+2.5e-3"]
    assert [as_text(number) for number in numbers] == numbers


def test_tables_are_read_back_by_our_readers(tmp_path):
    names = [*FORMULAS, "null", "1", "disc, round"]
    table = pd.DataFrame({"class": names, "path": names, "iou": np.linspace(-1, 1, len(names))})
    file = write_csv(tmp_path / "t.csv", table)
    found = read_csv(file)
    assert found["class"].tolist() == names
    assert found["iou"].tolist() == table["iou"].tolist()
    with open(file, newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            assert row["class"][:1] not in ("=", "+", "-", "@", "\t", "\r")
    table = pd.DataFrame({"class": ["=disc"], "path": ["=SUM(1).png"]})
    file = write_csv(tmp_path / "pictures.csv", table)
    (path,) = class_table(file, "path", ClassSpec(name="=disc"))["path"]
    assert path == "=SUM(1).png"


def test_objects_csv_holds_no_formula(tmp_path):
    mask = np.ones((2, 3), bool)
    image = image_of([mask], (2, 3), "=HYPERLINK(1).png")
    writer = open_writer("label_tiff", target_in(tmp_path))
    (file,) = writer.finish(iter(json.loads(json.dumps(list(writer.rows(image))))))
    with open(file, newline="", encoding="utf-8") as lines:
        (row,) = csv.DictReader(lines)
    assert row["image"] == "'=HYPERLINK(1).png"
    assert float(row["score"]) == image.instances[0].score


HOSTILE = [
    "a|b",
    "<img src=x onerror=alert(1)>",
    "`rm -rf`",
    "[x](javascript:alert(1))",
    "![x](http://host/a.png)",
    "line\n\n# heading",
    "* star _under_ __dunder__",
    "1. one",
    "- minus",
    "    code",
    "a  b ",
    "&lt;",
    "\\|",
    "<http://host>",
    "min_miou: 3 %",
    "~~gone~~",
    "--- | ---",
]


def shown(tokens):
    """Return the text that a page shows, and what else there is than text in paragraphs."""
    text, marks = "", set()
    for token in tokens:
        if token.children is not None:
            inner, others = shown(token.children)
            text, marks = text + inner, marks | others
        elif token.type in ("text", "code_inline"):
            text += token.content
        elif token.type == "softbreak":
            text += "\n"
        if token.type not in ("inline", "text", "softbreak"):
            marks.add(token.type)
    return text, marks


letters = st.text(st.characters().filter(str.isprintable), min_size=1, max_size=20)
signs = st.text(st.sampled_from("ab1 |`*_[](){}<>!#&;\\\n-+.:/=~"), min_size=1, max_size=14)


@few
@given(st.one_of(st.sampled_from(HOSTILE), letters, signs))
def test_markdown_shows_the_plain_text(text):
    page = MarkdownIt("gfm-like", {"linkify": False, "typographer": False})
    said, marks = shown(page.parse(f"x {markdown(text)} x"))
    assert said == f"x {text} x"
    assert marks == {"paragraph_open", "paragraph_close"}
    said, marks = shown(page.parse(f"* {markdown(text)}"))
    assert said == text
    assert not marks - {
        *("bullet_list_open", "bullet_list_close", "list_item_open", "list_item_close"),
        *("paragraph_open", "paragraph_close"),
    }
    rows = page.parse(f"| a | b |\n| --- | --- |\n| {markdown(text)} | 7 |")
    cells = [shown([token])[0] for token in rows if token.type == "inline"]
    assert cells == ["a", "b", text, "7"]


@pytest.mark.parametrize("text", HOSTILE)
def test_artifacts_show_names_and_notes_as_they_are(monkeypatch, tmp_path, text):
    from tasks import report
    from usam_core.steps import gate as gate_step

    pages = []
    keep = lambda page, key, description: pages.append((page, description))  # noqa: E731
    monkeypatch.setattr(report, "create_markdown_artifact", keep)
    monkeypatch.setattr(report, "emit_event", lambda *_, **__: None)
    folder = tmp_path
    said = {text: {"kept": 1, "rejected": {"small": 2}, "notes": [text]}}
    (folder / "report.json").write_text(json.dumps(said))
    summary = {"pictures": 1, "per_class": {text: 1}, "rejected": {}, "notes": [text]}
    summary |= {
        "source": "folder",
        "edited": {"voc": 1},
        "images": 1,
        "written": 1,
        "shards": 1,
        "incomplete": [],
    }
    result = SimpleNamespace(
        step="collect",
        path=str(folder / "x"),
        summary=summary,
        reused=False,
        key="k" * 64,
    )
    project = SimpleNamespace(config=SimpleNamespace(name=text), out=folder)
    report.show(result, project)
    report.show(SimpleNamespace(**{**vars(result), "step": "export"}), project)
    report.report_run(text, [])
    objection = SimpleNamespace(check="min_miou", reason=text)
    verdict = SimpleNamespace(objections=[objection], sheet=None)
    monkeypatch.setattr(gate_step, "check_gate", lambda _: verdict)
    monkeypatch.setattr(report, "load_project", lambda _: project)
    with pytest.raises(UsamError):
        report.pass_gate.fn("project.yaml", {})
    assert len(pages) == 4
    reader = MarkdownIt("gfm-like", {"linkify": False, "html": True})
    for page, description in pages:
        said, marks = shown(reader.parse(page))
        assert text in said
        assert not marks & {"html_inline", "html_block", "link_open", "image", "fence", "hr"}
        assert not {m for m in shown(reader.parse(description))[1] if "paragraph" not in m}


SECRETS = [
    "http://user:secret@host/a",
    "https://secret@host/",
    "http://user:se/secret@host/a.png",
    "s3://key:secret@bucket/a",
    "https://host/a.png?w=1&X-Amz-Signature=secret&h=2",
    "https://host/a.png?token=secret",
    "https://host/a.png?sv=1&sig=secret#top",
    "https://host/#access_token=secret",
    "https://host/a?api_key=secret&b=1",
]


@pytest.mark.parametrize("url", SECRETS)
def test_no_message_and_no_record_repeats_a_secret(url, tmp_path):
    hidden = without_secrets(f"{url}: no such file")
    assert "secret" not in hidden
    assert "***" in hidden
    assert "secret" not in str(InputError(f"{url}: gone"))
    assert "secret" not in str(FetchFailed("http_404", f"{url}: gone"))
    assert "secret" not in json.dumps(all_without_secrets({"a": [url, {"b": url}], "n": 1}))
    candidate = Candidate("urls", "list.csv", url, url, "title", url)
    picture = {"file": "a.png", "sha256": "0", "bytes": 1, "url": url}
    spec = ClassSpec(name="disc")
    for verdict in (Verdict("gone", f"{url} is gone"), Verdict(picture=picture)):
        found = sort_out([candidate], {url: verdict}, 1, spec, tmp_path)
        assert "secret" not in str([vars_of(one) for one in found]).replace("is gone", "")


def vars_of(found):
    return [(one.origin if hasattr(one, "origin") else one.provenance) for one in found]


@pytest.mark.parametrize("url", [*SECRETS, "https://host/a?anything=secret"])
def test_a_refused_url_of_a_project_is_not_repeated(url, tmp_path):
    (tmp_path / "project.yaml").write_text(
        yaml.safe_dump({"classes": ["disc"], "images": {"path": url}})
    )
    with pytest.raises(ConfigError) as told:
        load_project(tmp_path / "project.yaml")
    assert "secret" not in str(told.value)


def test_what_is_no_secret_stays():
    for text in ("https://host:8080/a@2x.png?id=5", "a@b.org", "s3://bucket/a@b/c.png", "x?y=1"):
        assert without_secrets(text) == text


@pytest.mark.parametrize(
    "url", ["s3://bucket/out", "file:///tmp/out", "https://host/out", "S3://b", "gs:/b/out"]
)
@pytest.mark.parametrize("key", ["path", "store"])
def test_results_are_not_written_behind_urls(url, key, tmp_path):
    (tmp_path / "images").mkdir()
    values = {"classes": ["disc"], "images": {"path": "images"}, "training": {"source": "render"}}
    file = tmp_path / "project.yaml"
    file.write_text(yaml.safe_dump({**values, "outputs": {key: url}}))
    with pytest.raises(ConfigError, match=f"outputs.{key}: got '{url}'; expected a folder on"):
        load_project(file)
    file.write_text(yaml.safe_dump({**values, "outputs": {key: "s3/out"}}))
    load_project(file)
