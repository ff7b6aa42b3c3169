"""Which images train a model, which choose it, which judge it: stratified, seeded, by group."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from usam_core.errors import ConfigError, InputError
from usam_core.images.ref import ImageRef

SPLITS = ("train", "val", "test")


def group_names(paths: Sequence[str], digests: Sequence[str], how: str) -> list[str]:
    """The group of each image; images of one group never lie in two splits.

    Planes of one file, and images with the same content, always are of one group.

    Args:
        paths: the images as they are listed.
        digests: SHA-256 of their content.
        how: `image`, each file by itself; `folder`, all files of a folder; else a regular
            expression that is found in the path: its first group, or all that it found, is the
            name.

    Raises:
        ConfigError: the expression is none, or is not found in a path.
    """
    names = [_name(path, how) for path in paths]
    first: dict[str, str] = {}
    above: dict[str, str] = {}
    for name, sha256 in zip(names, digests, strict=True):
        one, other = _top(above, name), _top(above, first.setdefault(sha256, name))
        if one != other:
            above[max(one, other)] = min(one, other)
    return [_top(above, name) for name in names]


def split_images(
    groups: Sequence[str],
    classes: np.ndarray,
    shares: Mapping[str, float],
    rng: np.random.Generator,
) -> list[str]:
    """The split of each image, such that each split shows each class about as often as its share.

    Whole groups are dealt out, those of the rarest class first, to the split that lacks most of it
    (iterative stratification).

    Args:
        groups: the group of each image.
        classes: bool (n, c), the classes that each image shows.
        shares: of the images, by split; a split with a share above 0 gets at least one group.
        rng: breaks ties.

    Raises:
        InputError: there are fewer groups than splits.
    """
    wanted = [name for name in SPLITS if shares[name] > 0]
    names, of_image = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < len(wanted):
        raise InputError(
            f"{len(groups)} labelled images in {len(names)} groups; expected at least "
            f"{len(wanted)} groups, one for each of {', '.join(wanted)}. Label more images, or "
            "group them otherwise (distill.group)"
        )
    # The last column counts images, the others images that show a class.
    counts = np.zeros((len(names), classes.shape[1] + 1))
    np.add.at(counts, of_image, np.hstack([classes, np.ones((len(classes), 1), bool)]))
    lacking = np.outer([shares[name] for name in wanted], counts.sum(0))
    dealt = np.full(len(names), -1)
    order = rng.permutation(len(names))
    while (left := order[dealt[order] < 0]).size:
        shown = (counts[left] > 0).sum(0)
        # A class that no group left shows has its turn never; images without a class come last.
        column = (
            int(np.argmin(np.where(shown[:-1] > 0, shown[:-1], np.inf))) if classes.any() else -1
        )
        column = column if shown[column] and shown[:-1].any() else -1
        with_it = left[counts[left, column] > 0]
        for group in with_it[np.argsort(-counts[with_it, -1], kind="stable")]:
            best = max(range(len(wanted)), key=lambda n: (lacking[n, column], lacking[n, -1]))
            dealt[group] = best
            lacking[best] -= counts[group]
    for n in range(len(wanted)):
        if not (dealt == n).any():
            giver = np.bincount(dealt, minlength=len(wanted)).argmax()
            dealt[min(np.flatnonzero(dealt == giver), key=lambda g: counts[g, -1])] = n
    return [wanted[dealt[group]] for group in of_image]


def _name(path: str, how: str) -> str:
    file = ImageRef.parse(path).file
    if how == "image":
        return file
    if how == "folder":
        return file.rpartition("/")[0] or "."
    found = re.search(how, path)
    if found is None:
        raise ConfigError(
            f"distill.group: {how!r} is not found in {path!r}; expected `image`, `folder`, or a "
            "regular expression that is found in the path of every image"
        )
    return (found[1] if found.re.groups else found[0]) or ""


def _top(above: Mapping[str, str], name: str) -> str:
    while name in above:
        name = above[name]
    return name
