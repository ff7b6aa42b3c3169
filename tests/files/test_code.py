"""Digests of code: what decides a result counts, how it is written does not."""

import sys

import pytest

from usam_core.files import code
from usam_core.sam.embedder import EMBED_REVISION
from usam_core.steps import STEPS, code_revision

SOURCES = {
    "usam_core.a": '"""Words."""\nfrom usam_core.b import f\nx = f(1)\n',
    "usam_core.b": "import usam_core.c\n\ndef f(n):\n    return n + usam_core.c.y\n",
    "usam_core.c": "y = 2\n",
    "usam_core.d": "z = 3\n",
    "usam_core.stage": "from usam_core.d import z\nfrom usam_core.a import x\n",
}


@pytest.fixture
def sources(monkeypatch, tmp_path):
    def write(**changes):
        texts = {**SOURCES, **{f"usam_core.{name}": text for name, text in changes.items()}}
        for name, text in texts.items():
            (tmp_path / name).write_text(text)
        code.code_digest.cache_clear()
        return code.code_digest("usam_core.stage", ("usam_core.a",))

    monkeypatch.setattr(code, "_file", lambda name: tmp_path / name)
    monkeypatch.setattr(code, "_is_module", lambda name: name in SOURCES)
    yield write
    code.code_digest.cache_clear()


@pytest.mark.parametrize(
    "changes",
    [
        {"c": "y = 3\n"},
        {"b": "import usam_core.c\n\ndef f(n):\n    return n - usam_core.c.y\n"},
        {"a": "from usam_core.b import f\nx = f(2)\n"},
        {"stage": "from usam_core.d import z\nfrom usam_core.a import x\nw = 1\n"},
    ],
)
def test_a_changed_line_anywhere_below_counts(sources, changes):
    assert sources(**changes) != sources()


@pytest.mark.parametrize(
    "changes",
    [
        {"c": "# a reason\ny   =  2\n"},
        {"b": 'import usam_core.c\n\ndef f(n):\n    """Add."""\n    return n + usam_core.c.y\n'},
        {"d": "z = 4\n"},  # imported by the stage, but no part of its calculations
    ],
)
def test_words_layout_and_other_modules_do_not(sources, changes):
    assert sources(**changes) == sources()


def test_every_step_has_calculations_that_exist():
    revisions = {step: code_revision(step) for step in STEPS}
    assert len(set(revisions.values())) == len(STEPS)


def test_the_labels_follow_from_painting_and_not_from_crawling():
    from usam_core.steps import annotate

    modules = code.closure(annotate.CALCULATIONS)
    assert {
        "usam_core.masks.paint",
        "usam_core.masks.bits",
        "usam_core.head.model",
    } <= modules
    assert not [name for name in modules if "sources" in name or "cli" in name]


def test_collected_pictures_do_not_follow_from_sam():
    from usam_core.steps import collect

    modules = code.closure(collect.CALCULATIONS)
    assert "usam_core.sources.filters" in modules
    assert "usam_core.sam.decoder" not in modules


def test_a_head_does_not_follow_from_reports():
    from usam_core.steps import fit

    modules = code.closure(fit.CALCULATIONS)
    assert "usam_core.head.train" in modules
    assert not modules & {"usam_core.steps", "usam_core.steps.export", "usam_core.steps.report"}


def test_what_a_person_sees_and_what_the_model_is_count_too():
    from usam_core.steps import annotate, embed, evaluate

    assert "usam_core.labels.overlay" in code.closure(annotate.CALCULATIONS)
    assert "usam_core.outputs.sheets" in code.closure(evaluate.CALCULATIONS)
    assert {"usam_core.sam.nano", "usam_core.sam.decoder"} <= code.closure(embed.CALCULATIONS)


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="digests of code are Python 3.11's")
def test_a_change_of_the_embedding_code_says_whether_it_changes_embeddings():
    """When this fails: raise EMBED_REVISION if the same image gives other numbers now; in any
    case write down the new digest."""
    assert (EMBED_REVISION, code_revision("embed")[:16]) == (1, "69c77b6296926e3d")
