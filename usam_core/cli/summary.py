"""The sentences that sum up a step's result, for the terminal and for the run page."""

from typing import Any


def sentence(step: str, summary: dict[str, Any], reused: bool) -> str:
    """Return one line that says what a step did or reused.

    Args:
        step: name of the step.
        summary: its result's summary.
        reused: nothing was done.
    """
    text = _SENTENCES[step](summary)
    return f"unchanged: {text}" if reused else text


def _collect(s: dict[str, Any]) -> str:
    dropped = ", ".join(f"{count} {code}" for code, count in s["rejected"].items())
    text = f"{s['pictures']} training pictures of {len(s['per_class'])} classes ({s['source']})"
    text = f"{text}; dropped: {dropped}" if dropped else text
    waiting = ", ".join(s["incomplete"])
    return f"{text}; run again for more of {waiting}" if waiting else text


def _embed(s: dict[str, Any]) -> str:
    return (
        f"{s['embedded']} images embedded, {s['reused']} reused from the store, "
        f"{len(s['quarantined'])} quarantined"
    )


def _compose(s: dict[str, Any]) -> str:
    if not s["train"] + s["held_out"]:
        return "nothing to do: no scenes"
    return (
        f"{s['train']} scenes to learn from and {s['held_out']} held out, of "
        f"{s['held_out_pictures']} pictures that the head does not see; {s['embedded']} embedded"
    )


def _describe(s: dict[str, Any]) -> str:
    if not s["blocks"]:
        return "no further features asked for"
    text = f"{s['described']} images described by {', '.join(s['blocks'])}, {s['reused']} reused"
    return f"{text}, {len(s['left_out'])} could not be read" if s["left_out"] else text


def _fit(s: dict[str, Any]) -> str:
    features = " + ".join(s["features"])
    if s["used"] == "zero_shot":
        return f"{len(s['classes'])} classes by their names alone ({features}), no pictures"
    scenes = f" and {s['scenes']} scenes" if s["scenes"] else ""
    if s.get("reviewed"):
        scenes += f" and {s['reviewed']} bags of reviewed masks"
    return (
        f"{s['used']} for {len(s['classes'])} classes from {s['pictures']} pictures{scenes} "
        f"({features})"
    )


def _calibrate(s: dict[str, Any]) -> str:
    if not s["masks"]:
        return f"no calibration: {s['scenes']} held-out scenes"
    return (
        f"ECE {s['ece']:.3f} on held-out scenes, {s['ece_before']:.3f} before; temperature "
        f"{s['temperature']:.2f}; {s['masks']} masks of {s['scenes']} scenes"
    )


def _annotate(s: dict[str, Any]) -> str:
    text = (
        f"{s['instances']} instances in {s['images']} images; {s['labelled']} images labelled, "
        f"{s['reused']} reused" + (f", {s['edited']} edited by hand" if s.get("edited") else "")
    )
    said = s.get("reviewed")
    if not said:
        return text
    return (
        f"{text}; reviewed: {said['accepted']} accepted, {said['changed']} changed, "
        f"{said['rejected']} rejected, {said['not_applied']} not applied"
    )


def _evaluate(s: dict[str, Any]) -> str:
    parts = [f"mIoU {s['miou']:.3f} on {s['images']} images"]
    if s["map50"] is not None:
        parts.append(f"mAP50 {s['map50']:.3f}")
    parts.append(f"false positives on absent classes {s['false_positive_rate']:.3f}")
    if s["ece"] is not None:
        parts.append(f"ECE {s['ece']:.3f}")
    if s["without_truth"]:
        parts.append(f"{s['without_truth']} images without truth left out")
    if s.get("edited"):
        parts.append(f"{s['edited']} images edited by hand left out")
    parts += [f"truth: {note}" for note in s["truth_notes"]]
    return ", ".join(parts)


def _export(s: dict[str, Any]) -> str:
    if not s["edited"]:
        return "no formats asked for (outputs.formats)"
    text = f"{s['images']} images as {', '.join(s['edited'])}; {s['written']} shards written"
    edited = sum(s["edited"].values())
    return f"{text}, {edited} files edited by hand kept" if edited else text


def _report(s: dict[str, Any]) -> str:
    text = f"{s['images']} images in one file of {s['bytes'] / 1e6:.1f} MB"
    if s["changed"] is None:
        return f"{text}; no earlier run to compare with"
    return f"{text}; labels of {s['changed']} images changed since the previous run"


_SENTENCES = {
    "collect": _collect,
    "embed": _embed,
    "compose": _compose,
    "describe": _describe,
    "fit": _fit,
    "calibrate": _calibrate,
    "annotate": _annotate,
    "evaluate": _evaluate,
    "export": _export,
    "report": _report,
}
