"""From any output back to training pictures and checkpoint."""

import base64
import json
import re
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from tests.lineage.tampered import PNG, broken, document, replace_head
from usam_core.config.project import load_project
from usam_core.lineage import document as documents
from usam_core.lineage.chain import read_chain
from usam_core.lineage.document import LINEAGE
from usam_core.lineage.show import broken_links, markdown, to_json, tree
from usam_core.steps import STEPS, run_step
from usam_core.steps.embed import open_store
from usam_core.steps.lineage_checks import check_chain


def test_every_step_says_what_it_was_made_of(finished_project):
    root = finished_project.parent
    for step in set(STEPS) - {"describe", "distill"}:  # for which there is nothing to do
        said = document(root, step)
        assert said["step"] == step
        assert said["code"]["versions"]["usam"]
        assert said["seed"] == 0
        assert said["flow_run"] is None
        assert str(root) not in json.dumps(said), "no path of this machine"
    fit = document(root, "fit")
    assert fit["inputs"]["pictures"]["per_class"] == {"disc": 3, "ring": 3, "rod": 3}
    assert fit["config"]["head"]["steps"] == 5
    head = document(root, "annotate")["weights"]["head"]
    assert head["path"] == "out/fit/student.safetensors"
    assert head["sha256"] == fit["outputs"]["student.safetensors"]
    record = json.loads((root / "out" / "fit" / "record.json").read_text())
    assert LINEAGE in record["outputs"], "the record comes last and covers the lineage"


def test_a_label_png_leads_back_to_its_image_the_pictures_and_the_checkpoint(root):
    chain = read_chain(root / PNG)
    findings = check_chain(chain)
    assert not broken_links(findings)
    shown = to_json(chain, findings)
    assert shown["image"]["file_name"] == "s1.png"
    assert shown["whole"]
    steps = [step["step"] for step in shown["steps"]]
    assert sorted(steps) == ["annotate", "calibrate", "collect", "compose", "embed", "fit"]
    by_step = {step["step"]: step["document"] for step in shown["steps"]}
    assert by_step["collect"]["pictures"]["provenance"]["sources"] == {"render": 9}
    text = "\n".join(tree(chain, findings))
    store = open_store(load_project(root / "project.yaml"))
    index = store.index().set_index("sha256")
    for expected in (
        "images/s1.png",
        shown["image"]["sha256"],
        index.loc[shown["image"]["sha256"], "shard"],
        "9 for training (disc 3, ring 3, rod 3); 9 from render",
        "SAM nano, bundled with usam",
        "the chain is whole",
    ):
        assert expected in text


@pytest.mark.parametrize(
    "output",
    [
        "out/annotate/coco.json",
        "out/annotate/overlays/s0.jpg",
        "out/annotate",
        "out/annotate/masks",
        "out/annotate/lineage.json",
        "out/fit/student.safetensors",
        "out/fit/student.card.json",
        "out/evaluate/metrics.json",
        "out/evaluate/contact_sheet.png",
        "out/collect/manifest.parquet",
        "out/collect/pictures/disc-96-0-1/0000.png",
        "out/compose/scenes/train-00000.png",
        "out/compose/truth/train-00001.png",
        "out/compose/scenes.parquet",
        "out/embed",
    ],
)
def test_every_output_of_a_moved_project_has_a_whole_chain(root, output):
    chain = read_chain(root / output)
    findings = check_chain(chain)
    assert broken_links(findings) == []
    assert "collect" in {link.step for link in chain.links.values()}


def test_steps_that_run_again_keep_the_chain_of_what_stays(root):
    project = load_project(root / "project.yaml")
    before = (root / "out" / "fit" / LINEAGE).read_bytes()
    kept = (root / "out" / "embed" / LINEAGE).read_bytes()
    Image.open(root / "images" / "s0.png").rotate(90, expand=True).save(root / "images" / "n.png")
    run_step("embed", project)
    assert run_step("fit", project).reused
    run_step("annotate", project)
    assert (root / "out" / "fit" / LINEAGE).read_bytes() == before
    earlier = list((root / "out" / "embed" / "lineage").iterdir())
    assert [file.read_bytes() for file in earlier] == [kept]
    chain = read_chain(root / "out" / "annotate" / "masks" / "n.png")
    assert broken_links(check_chain(chain)) == []
    embeds = [link.current for link in chain.links.values() if link.step == "embed"]
    assert sorted(embeds) == [False, True], "fit used the earlier one, annotate the present one"
    earlier[0].unlink()
    assert broken(root / PNG) == [("out/embed/lineage.json", "lineage")]


@pytest.mark.parametrize("place", ["inside", "outside"])
def test_a_linked_folder_of_results_leads_to_its_project(root, tmp_path, place):
    if place == "inside":
        (root / "out").rename(tmp_path / "scratch")
        (root / "out").symlink_to(tmp_path / "scratch")
        file = root / PNG
    else:
        (tmp_path / "link").symlink_to(root / "out")
        file = tmp_path / "link" / "annotate" / "masks" / "s1.png"
    assert broken(file) == []


def test_the_coarser_level_has_a_chain_of_its_own(root):
    project = load_project(root / "project.yaml", level="parents")
    for step in ("fit", "calibrate", "annotate"):
        run_step(step, project)
    chain = read_chain(root / "out" / "parents" / "annotate" / "masks" / "s1.png")
    assert broken_links(check_chain(chain)) == []
    assert "out/parents/fit/lineage.json" in {link.path for link in chain.links.values()}
    assert broken(root / PNG) == []


ODD = ['a "quoted" name', "rows | and [brackets]", "`tick` <b>", "日本", "new\nline", "\x1b[2Jred"]


@pytest.mark.parametrize("name", ODD)
def test_odd_file_names(root, name):
    (root / "images" / "s1.png").rename(root / "images" / f"{name}.png")
    run_step("annotate", load_project(root / "project.yaml"))
    chain = read_chain(root / "out" / "annotate" / "masks" / f"{name}.png")
    findings = check_chain(chain)
    assert broken_links(findings) == []
    lines = list(tree(chain, findings))
    assert all(line.isprintable() for line in lines)
    assert json.loads(json.dumps(to_json(chain, findings)))["image"]["file_name"] == f"{name}.png"


def test_what_prefect_calls_the_run_is_recorded_and_stays(root):
    project = load_project(root / "project.yaml")
    run = {"id": "0b6f", "name": "amber-fox"}
    run_step("fit", project, refresh=True, flow_run=run)
    assert document(root, "fit")["flow_run"] == run
    assert run_step("fit", project, flow_run={"id": "1", "name": "other"}).reused
    assert document(root, "fit")["flow_run"] == run
    run_step("embed", project, refresh=True, flow_run=run)
    assert document(root, "embed")["flow_run"] == run


def test_the_commit_is_that_of_this_checkout_alone(tmp_path, monkeypatch):
    def git(*words):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True, capture_output=True)

    git("init")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "--allow-empty", "-m", "x")
    inside = tmp_path / "usam_core" / "lineage" / "document.py"
    monkeypatch.setattr(documents, "__file__", str(inside))
    found = documents.checkout.__wrapped__()
    assert found is not None
    assert len(found["commit"]) == 40
    assert not found["changed"]
    (tmp_path / "venv").mkdir()
    installed = tmp_path / "venv" / "usam_core" / "lineage" / "document.py"
    monkeypatch.setattr(documents, "__file__", str(installed))
    assert documents.checkout.__wrapped__() is None


def test_usam_lineage_prints_the_chain_and_its_exit_code(root):
    from tests.usam_process import usam

    found = usam("lineage", root / PNG, "--json")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["whole"] is True
    replace_head(root)
    found = usam("lineage", Path("out/annotate/masks/s1.png"), cwd=root)
    assert found.returncode == 1
    assert "out/fit/student.safetensors: expected SHA-256" in found.stdout
    assert "the head changed after annotate read it; run `usam annotate` again" in found.stdout


def picture_of(text):
    """Return the boxes of the picture in a Markdown text, and its edges, by what stands in them."""
    data = re.match(r"!\[[^\]]*\]\(data:image/svg\+xml;base64,([^)]+)\)\n", text)[1]
    drawn = ElementTree.fromstring(base64.b64decode(data))
    tag = "{http://www.w3.org/2000/svg}"
    boxes, words = [], []
    for part in drawn:
        if part.tag == f"{tag}rect" and part.get("class"):
            sides = [float(part.get(side)) for side in ("x", "y", "width", "height")]
            boxes.append(sides)
            words.append([])
        elif part.tag == f"{tag}text":
            words[-1].append(part.text)
    edges = set()
    for part in drawn.iterfind(f"{tag}path[@class='e']"):
        numbers = [float(n) for n in re.findall(r"[\d.]+", part.get("d"))]
        ends = (numbers[:2], numbers[-2:])
        found = [
            next(n for n, (x, y, w, h) in enumerate(boxes) if x <= a <= x + w and y <= b <= y + h)
            for a, b in ends
        ]
        edges.add(tuple(found))
    return boxes, words, edges


def test_the_picture_has_a_box_for_every_step_and_origin_and_the_edges(finished_project):
    chain = read_chain(finished_project.parent / "out" / "evaluate")
    text = markdown(chain)
    boxes, words, edges = picture_of(text)
    titles = [lines[1] if lines[0] == "checkpoint" else lines[0] for lines in words]
    assert {(titles[a], titles[b]) for a, b in edges} >= {
        ("annotate", "evaluate"),
        ("fit", "annotate"),
        ("embed", "annotate"),
        ("collect", "fit"),
        ("SAM nano, bundled with usam", "embed"),
        ("truth", "evaluate"),
    }
    steps = [(a, b) for a, b in edges if boxes[a][0] == boxes[b][0]]
    assert len(steps) > 8
    assert all(boxes[a][1] < boxes[b][1] for a, b in steps), "down, never up"
    for n, (x, y, w, h) in enumerate(boxes):
        assert not any(abs(x - a) < w and abs(y - b) < h for a, b, *_ in boxes[:n]), "apart"
    assert text.startswith("![evaluate and the steps it was made from: annotate, ")
    assert "9 for training" in text


def test_odd_names_cannot_break_the_picture_or_the_table(finished_project):
    chain = read_chain(finished_project.parent / "out" / "fit")
    plain = markdown(chain)
    odd = ODD[0] + '"]; end ```\n```mermaid\n' + "|<script>|#quot; %% \\ \x00 %{init}%"
    link = chain.last
    for entry in (link.document["inputs"]["pictures"], link.document["weights"]["checkpoint"]):
        entry["per_class"] = {odd: 3}
        entry["path"] = odd
    link.document["flow_run"] = {"id": "1", "name": odd}
    text = markdown(chain)
    assert len(text.splitlines()) == len(plain.splitlines())
    assert len(picture_of(text)[0]) == len(picture_of(plain)[0]) + 1, "one more checkpoint"
    for line in text.splitlines()[1:]:
        assert line.count("|") in (0, 4)
        assert "```" not in line
        assert not set(line) & set("\\%\x00\x1b")
