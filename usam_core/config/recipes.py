"""Settings that go together, under one word: `recipe` of `project.yaml`.

`papers` is the method of U-SAM and GranSAM as they are printed, and nothing of ours. What they give
carries its place; what they leave open is named as ours (docs/method.md lists it; the choices were
measured in docs/decisions/0004).

Free beside it: where the pictures come from, `training.web` and a class's own prompts; the labels'
`level` (supplement 4); and what the method does not speak of, `images.tile` and
`training.min_per_class`. The final head is the student; `inference.head: teacher` is free because
the papers' tables have a row of the teacher alone too.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from usam_core.config.training import FilterConfig

PAPERS: dict[str, Any] = {
    "negatives": [],
    "features": {},
    "training": {
        "filters": dict.fromkeys(FilterConfig.model_fields),
        "synthetic": {"per_class": 200, "prompts": ["a photo of a {c}"]},  # GranSAM 4.2
    },
    "sam": {"points_per_side": 10},  # U-SAM 4.2
    "compose": {"scenes": 0, "held_out_scenes": 0},
    "head": {
        "features": ["tokens"],  # U-SAM 3.3: the four mask tokens
        "mask_choice": "single",  # open; tokens are the same for all masks of a prompt
        "hidden": (512, 256, 128),  # GranSAM, supplement 2
        "dropout": 0.9,  # GranSAM, supplement 2
        "standardize": False,
        "top_k_share": 20.0,  # open: a
        "entropy_threshold": 0.5,  # open
        "distil": True,
        "lambda_mil": 1.0,  # U-SAM 4.2
        "lambda_uncertainty": 0.15,  # U-SAM 4.2
        "uncertainty_reduction": "sum",  # equation 4 as printed
        "steps": 150,  # open: epochs
        "batch_size": 64,  # U-SAM 4.2
        "learning_rate": 0.001,  # U-SAM 4.2
        "composed": "off",
        "background": False,
        "familiar": 0.0,
        "reviewed": False,
        "class_balance": False,
        "text": "off",
    },
    "inference": {
        "threshold": 0.3,  # open; 0.7 is given for SAM+CLIP alone
        "class_thresholds": {},
        "thresholds": "fixed",
        "presence": 0.0,
        "mask_choice": "single",  # open
        "min_predicted_iou": 0.0,
        "min_stability": 0.0,
        "min_area": 0.0,
        "max_area": 1.0,
        "nms_iou": 0.5,  # open: how much, and of masks or boxes
        "score": "confidence",  # open: of mAP50
        "paint": "score",  # open: overlaps; the survivors of NMS, the best on top
    },
}

RECIPES: dict[str, dict[str, Any]] = {"papers": PAPERS}


def with_recipe(values: dict[str, Any], recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return a project's values with those of a recipe where it says nothing itself.

    >>> with_recipe({"head": {"steps": 9}}, {"head": {"steps": 150, "text": "off"}})
    {'head': {'steps': 9, 'text': 'off'}}
    """
    both = dict(values)
    for key, value in recipe.items():
        if isinstance(value, dict) and value:
            given = both.get(key)
            if given is None or isinstance(given, dict):
                both[key] = with_recipe(given or {}, value)
        else:
            both.setdefault(key, value)
    return both


def departures(
    config: Any, recipe: Mapping[str, Any], place: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """Yield each setting that is not the recipe's: its keys, what it is, what the recipe says."""
    for key, value in recipe.items():
        found = getattr(config, key)
        if isinstance(value, dict) and value:
            yield from departures(found, value, (*place, key))
        elif found != value:
            yield (*place, key), found, value
