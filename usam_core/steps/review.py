"""What `usam review` shows: the masks that `annotate` listed, ordered by how doubtful they are."""

import heapq
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from filelock import FileLock, Timeout

from usam_core.config.project import Project
from usam_core.errors import InputError, UserError
from usam_core.files.atomic import sweep
from usam_core.files.digest import write_sealed
from usam_core.head.bags import choose_masks
from usam_core.head.checkpoint import card_path, load_head
from usam_core.inference.scoring import class_logits, thresholds
from usam_core.labels.image import Instance, LabelledImage
from usam_core.masks.rle import measures
from usam_core.progress import SILENT, Progress
from usam_core.review import Order
from usam_core.review.decisions import Decision, judged, match
from usam_core.review.rulings import BY_HAND
from usam_core.review.sampling import LEVEL, Item, Precision, queue
from usam_core.review.session import Listed, Session
from usam_core.steps import annotate, embed
from usam_core.steps.base import step_folder
from usam_core.steps.blocks import head_blocks
from usam_core.steps.label_images import head_path, read_calibration
from usam_core.steps.pictures import ProjectImages
from usam_core.steps.record import decided, decisions_file, labels_record, read_record

PRECISION = "precision.json"
MAX_ASKED = 2000
"""The other head is run on at most so many images: those of the smallest digests."""
MAX_EMPTY = 1000
"""So many images in which nothing was found are offered, for what the head missed."""
_COLUMNS = ("instances", "rejected", "tiles")
LOOKED_BACK = 100
"""So many of the last decisions may be gone back to."""


def open_review(
    project: Project,
    order: Order = "mix",
    classes: Sequence[str] = (),
    limit: int = 500,
    progress: Progress = SILENT,
) -> Session:
    """Open a review of the masks that the project's labels hold.

    Args:
        order: what is shown first.
        classes: only masks that the head calls so; empty takes all.
        limit: most masks to be shown.

    Raises:
        InputError: there is no such class, or no mask of it.
        MissingStepError: `annotate` has not run.
    """
    listed = _list(project, order, classes, limit, progress)
    if not listed.shown and not listed.decided:
        wanted = f" of {', '.join(classes)}" if classes else ""
        raise InputError(
            f"{step_folder(project, 'annotate')}: the labels list no mask{wanted}; lower "
            "inference.threshold, or take more images, and run `usam annotate` again"
        )
    return Session(listed, decisions_file(project.out), partial(_write_precision, project))


@contextmanager
def only_review(project: Project) -> Iterator[None]:
    """Keep other reviews of the project away while the block runs.

    Raises:
        UserError: there is one already.
    """
    file = decisions_file(project.out).with_name(".lock")
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(file, timeout=0):
            sweep(file.parent)
            yield
    except Timeout:
        raise UserError(
            f"{file.parent}: another `usam review` of this project runs; use its page, or end it"
        ) from None


def summary(project: Project) -> list[Precision]:
    """Each class's precision by the decisions so far; written to disk too."""
    listed = _list(project, "random", (), 0, SILENT)
    precisions = Session(listed, decisions_file(project.out), lambda _: None).precisions()
    _write_precision(project, precisions)
    return precisions


def _write_precision(project: Project, precisions: Sequence[Precision]) -> None:
    report = {
        "labels": labels_record(project).key,
        "level": LEVEL,
        "interval": "Clopper-Pearson, of masks drawn by chance",
        "head_learned_from_decisions": learned_from_decisions(project),
        "classes": [one.to_json() for one in precisions],
    }
    write_sealed(step_folder(project, "review") / PRECISION, report)


def learned_from_decisions(project: Project) -> bool:
    """Whether the head has seen decisions: then it does better on them than elsewhere."""
    card = json.loads(card_path(head_path(project)).read_text(encoding="utf-8"))
    return bool(card.get("training_reviewed"))


def images_shown(project: Project, session: Session) -> ProjectImages:
    """The images of a review, for its page."""
    return ProjectImages(project, session.file_names())


def _list(
    project: Project, order: Order, classes: Sequence[str], limit: int, progress: Progress
) -> Listed:
    names = project.config.label_names
    unknown = [name for name in classes if name not in names]
    if unknown:
        raise InputError(f"--class {unknown[0]!r}: expected one of {names}")
    labels_record(project)
    wanted = [name for name in names if name in classes or not classes]
    measures = [order] if order not in ("mix", "random") else ["entropy", "threshold"]
    other = _disagreement(project, progress) if order in ("mix", "disagreement") else {}
    if order == "disagreement" and not other:
        raise InputError(
            "--order disagreement: there is one head only (head.distil is off, or names alone "
            "label); expected a teacher and a student. Choose another order"
        )
    if order == "mix" and other:
        measures.append("disagreement")
    draws: dict[str, list[int]] = {name: [] for name in wanted}
    doubtful: dict[str, _Largest] = {m: _Largest(limit) for m in measures}
    drawn = {name: _Largest(limit) for name in wanted}
    before: list[tuple[Item, Decision]] = []
    empty: dict[str, str] = {}
    part_of: dict[str, str] = {}
    for number, item in enumerate(_items(project, other, empty, part_of)):
        if item.name not in draws:
            continue
        if not item.added:
            draws[item.name].append(item.draw)
        if item.decision is not None:
            before.append((item, item.decision))
            continue
        for name in measures:
            if name in item.doubt:
                doubtful[name].add(item.doubt[name], number, item)
        drawn[item.name].add(-item.draw, number, item)
    before.sort(key=lambda one: one[1].time)
    by_doubt = [] if order == "random" else [largest.items() for largest in doubtful.values()]
    shown = queue(by_doubt, {name: largest.items() for name, largest in drawn.items()}, limit)
    back = [(item, decision.sampled) for item, decision in before[-LOOKED_BACK:]] if limit else []
    return Listed(
        names,
        {name: np.sort(np.array(places, np.int64)) for name, places in draws.items()},
        [item for item, _ in before],
        [*back, *shown],
        project.config.label_of,
        lambda sha256: _beside(project, part_of.get(sha256), sha256),
        empty,
    )


def _beside(project: Project, part: str | None, sha256: str) -> list[Item]:
    """All masks of one image, of the part of the labels that has it."""
    labels = annotate.labels(project)
    if part is None or part not in labels.files:
        return []
    parts = replace(labels, files={part: labels.files[part]})
    found = (one for one in parts.images(_COLUMNS) if one.sha256 == sha256)
    image = next(found, None)
    if image is None:
        return []
    names = project.config.label_names
    return _items_of(image, names, decided(project.out).get(sha256, []))


class _Largest:
    """The `count` items of the largest values; of equals the first."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._heap: list[tuple[float, int, Item]] = []

    def add(self, value: float, number: int, item: Item) -> None:
        if len(self._heap) < self._count:
            heapq.heappush(self._heap, (value, -number, item))
        elif self._heap and (value, -number) > self._heap[0][:2]:
            heapq.heapreplace(self._heap, (value, -number, item))

    def items(self) -> list[Item]:
        return [item for _, _, item in sorted(self._heap, key=lambda one: one[:2], reverse=True)]


def _images(project: Project) -> Iterator[tuple[str, LabelledImage]]:
    """Yield what was labelled and the part that has it, each image once, a few at a time."""
    seen = set()
    labels = annotate.labels(project)
    for name, sha256 in labels.files.items():
        for image in replace(labels, files={name: sha256}).images(_COLUMNS):
            if image.sha256 not in seen:
                seen.add(image.sha256)
                yield name, image


def _items(
    project: Project,
    other: dict[tuple[str, int], float],
    empty: dict[str, str] | None = None,
    part_of: dict[str, str] | None = None,
) -> Iterator[Item]:
    """Yield every mask that the head listed, those too that a person has rejected since or added.

    Args:
        other: see `_disagreement`.
        empty: names of images without any mask go here, `MAX_EMPTY` at most.
        part_of: the part of the labels that has each image goes here.
    """
    config, decisions = project.config, decided(project.out)
    names, label_of = config.label_names, config.label_of
    limits = thresholds(config.inference, names, read_calibration(project))
    timed = config.inference.score == "confidence_x_iou"
    for part, image in _images(project):
        items = _items_of(image, names, decisions.get(image.sha256, []))
        if part_of is not None:
            part_of[image.sha256] = part
        if empty is not None and not items and len(empty) < MAX_EMPTY:
            empty[image.sha256] = image.path
        for item in items:
            one, decision = item.instance, item.decision
            if decision is not None and judged(decision, item.name, label_of) is None:
                item.decision = None
            if item.name not in names:
                continue  # of another level
            if item.added or one.prompt is None:
                yield item
                continue
            # What was compared with the threshold; the score may be that times the predicted IoU.
            quality = min(max(one.predicted_iou or 0.0, 0.0), 1.0)
            confidence = one.score / quality if timed and quality else one.score
            item.doubt = {"entropy": one.entropy or 0.0}
            item.doubt["threshold"] = float(limits[names.index(item.name)]) - confidence
            opinion = other.get((image.sha256, one.prompt))
            if opinion is not None:
                item.doubt["disagreement"] = opinion
            yield item


def _items_of(
    image: LabelledImage, names: Sequence[str], decisions: Sequence[Decision]
) -> list[Item]:
    """The masks of an image with what was decided of each; those that a person made too.

    A mask whose outline is a person's stands for the head's mask that it took the place of.
    """
    by_outline = {one.outline["counts"]: one for one in decisions if one.label is not None}
    items, used, listed = [], [], []
    for one in _listed(image):
        said = by_outline.get(one.rle["counts"]) if one.reviewed else None
        if said is None or (said.verdict not in BY_HAND and one.prompt is not None):
            listed.append(one)
            continue
        used.append(said)
        items.append(_by_hand(image, said, one))
    left = [one for one in decisions if not any(one is other for other in used)]
    prompts = [-1 if one.prompt is None else one.prompt for one in listed]
    matched = match([one.rle for one in listed], prompts, left)
    for one, decision in zip(listed, matched, strict=True):
        place = one.class_index if one.head_said is None else one.head_said
        items.append(Item(image.sha256, image.path, names[place], one, decision=decision))
    # What was added since the labels were made.
    for added in left:
        new = added.head_class is None and added.label is not None
        if new and not any(added is other for other in matched):
            items.append(_by_hand(image, added, None))
    return items


def _by_hand(image: LabelledImage, said: Decision, listed: Instance | None) -> Item:
    shape = measures(said.mask)
    index = listed.class_index if listed else 0
    one = listed or Instance(index, said.mask, 0, (0, 0, 0, 0), 1.0, probability=1.0, entropy=0.0)
    one = replace(one, rle=said.mask, area=shape["area"], bbox=tuple(shape["bbox"]))
    name = said.head_class or said.label or ""
    return Item(image.sha256, image.path, name, one, {}, said, added=said.head_class is None)


def _listed(image: LabelledImage) -> list[Instance]:
    """The masks that the head listed, or a person made."""
    return [*image.instances, *(image.rejected or ())]


def _disagreement(project: Project, progress: Progress) -> dict[tuple[str, int], float]:
    """Total variation distance, 0 to 1, between the distributions of the two heads.

    By image and prompt; empty where there is but one head.
    """
    own = head_path(project)
    file = own.with_name("student" if own.stem == "teacher" else "teacher").with_suffix(own.suffix)
    record = read_record(step_folder(project, "fit"))
    if record is None or file.name not in record.outputs:
        return {}
    (head, card), (other, _) = load_head(own), load_head(file)
    features = card["settings"]["features"]
    choice = project.config.inference.mask_choice
    store = embed.open_store(project)
    store.use_blocks(head_blocks(project))
    prompts = {
        image.sha256: [one.prompt for one in _listed(image) if one.prompt is not None]
        for _, image in _images(project)
        if image.tiles is None
    }
    asked = heapq.nsmallest(MAX_ASKED, (sha256 for sha256, some in prompts.items() if some))
    distances: dict[tuple[str, int], float] = {}
    with progress.bar("Asking the other head", len(asked)) as bar:
        for sha256 in asked:
            mask_set = store.read(sha256)
            p, q = (
                torch.from_numpy(class_logits(one, mask_set, features)).softmax(-1).numpy()
                for one in (head, other)
            )
            chosen = choose_masks(mask_set.predicted_iou, choice)
            rows = prompts[sha256]
            apart = np.abs(p - q)[rows, chosen[rows]].sum(axis=-1) / 2
            distances.update({(sha256, r): float(a) for r, a in zip(rows, apart, strict=True)})
            bar.advance()
    return distances
