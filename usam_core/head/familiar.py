"""Is a mask like its class's training pictures at all? One more output: "none of these" (ours).

A softmax over c classes gives the best one at least 1/c: with few classes no threshold rejects
anything, and a single class is called everything. The training pictures themselves say how near
is near. Of a mask's row x and the most probable name k,

    u = cosine of x with m_k, the mean direction of the objects of k's pictures, over n_k
    logit of "none" = logsumexp(z) + SHARPNESS max(share_all - u_all, share_own - u_own)
    share_all = share min(1, 2 - c/MANY), share_own = share min(1, 2 - c/FEW)

For u_all, columns are standardized over the pictures of all names alike: objects of k against
those of the other names. For u_own they are over k's pictures: objects of k against what lies
around them. The fewer names there are, the less the others teach of what k is not, and the more
the second counts. n_k is how near the best masks of a picture come to the mean of the others.
Where both hold, the softmax is as it was; where no share is left, the test is not asked: from
2 FEW names on the second, from 2 MANY on both, and the softmax alone says enough. Nor is it asked
of a name with too few pictures to know n_k, which is 0 then. Measured in
docs/decisions/0018-few-classes.md.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from usam_core.head.bags import BagSource, deviations
from usam_core.head.model import BaseHead

SHARPNESS = 16.0
"""What a whole n_k nearer adds to a mask's log odds."""
MANY = 10
"""Beyond so many names a softmax is unsure of what it does not know: less is asked of both."""
FEW = 4
"""Beyond so many names the others teach what is none of them, and less is asked of the second."""
_MIN = 0.4
"""n_k of pictures that have less in common: what is near to them is near to much else."""
_NOT_ASKED = 10.0
"""The nearness to a name with n_k = 0: "none of these" has no probability left."""
_SELF = 1.8
"""But no more than this times what they reach themselves, so that half of it can be reached."""


class FamiliarHead(BaseHead):
    """A head with one more output, "none of these", behind all that it has.

    Args:
        owners: for each of k names that pictures were collected of, the head's output it is
            labelled as; every class has one.
        share: of n_k; a mask farther from its class is rather none of these.

    Raises:
        ValueError: so many classes have no such output (`shares_of`).
    """

    centre: Tensor
    scale: Tensor
    means: Tensor
    usual: Tensor

    def __init__(self, head: BaseHead, width: int, owners: list[int], share: float) -> None:
        super().__init__()
        self.head = head
        self.width = width
        self._owners = [[n for n, own in enumerate(owners) if own == o] for o in sorted({*owners})]
        self._shares = shares_of(share, len(self._owners))
        if not self._shares:
            raise ValueError(f"{len(self._owners)} classes; expected below {2 * MANY}")
        names = len(owners)
        # Over all names alike, then over each name's own pictures.
        self.register_buffer("centre", torch.zeros(1 + names, width))
        self.register_buffer("scale", torch.ones(1 + names, width))
        self.register_buffer("means", torch.zeros(2, names, width))
        self.register_buffer("usual", torch.ones(2, names))

    def forward(self, rows: Tensor) -> Tensor:
        """Logits, float32 (..., o + 1), of rows (..., f); the last is "none of these"."""
        logits = self.head(rows)
        best = logits[..., : len(self._owners)].argmax(-1, keepdim=True)
        pairs = zip(self._shares, self.nearness(rows), strict=True)
        lacks = [share - near.gather(-1, best) for share, near in pairs]
        lack = torch.cat(lacks, dim=-1).amax(-1, keepdim=True)
        none = logits.logsumexp(-1, keepdim=True) + SHARPNESS * lack
        return torch.cat([logits, none], dim=-1)

    def nearness(self, rows: Tensor) -> list[Tensor]:
        """u_all, and u_own if it counts, of each class and negative name: (..., c) each."""
        cosines = (self._all_cosines, self._own_cosines)[: len(self._shares)]
        nearness = [
            torch.where(usual > 0, of_rows(rows) / usual, _NOT_ASKED)
            for of_rows, usual in zip(cosines, self.usual, strict=False)
        ]
        return [
            torch.stack([near[..., own].amax(-1) for own in self._owners], dim=-1)
            for near in nearness
        ]

    def _all_cosines(self, rows: Tensor) -> Tensor:
        unit = functional.normalize((rows - self.centre[0]) / self.scale[0], dim=-1)
        return unit @ self.means[0].T

    def _own_cosines(self, rows: Tensor) -> Tensor:
        """Cosines as each name's own pictures see them; no row is standardized k times."""
        rows = rows - self.centre[0]
        centre, weight = self.centre[1:] - self.centre[0], 1 / self.scale[1:]
        along = weight * self.means[1]
        dot = rows @ along.T - (centre * along).sum(-1)
        square = weight.square()
        length = rows.square() @ square.T - 2 * rows @ (centre * square).T
        length = (length + (centre.square() * square).sum(-1)).clamp(min=1e-9).sqrt()
        return dot / length


def shares_of(share: float, classes: int) -> list[float]:
    """Which share of n_k is asked of u_all and u_own; without those of which none is left.

    >>> [shares_of(0.5, classes) for classes in (4, 6, 10, 15, 20)]
    [[0.5, 0.5], [0.5, 0.25], [0.5], [0.25], []]
    """
    shares = [share * min(1, 2 - classes / names) for names in (MANY, FEW)]
    return [left for left in shares if left > 0]


def learn_familiar(
    bags: BagSource, names: np.ndarray, objects: np.ndarray, few: Sequence[int] = ()
) -> dict[str, Tensor]:
    """Learn the buffers of a `FamiliarHead`, by name.

    Args:
        bags: some pictures of every name, (n, d, f).
        names: int64 (n,), which name each shows, 0 to the largest without a gap.
        objects: bool (n, d), the masks that lie on its object; a picture without any counts whole.
        few: names with too few pictures to say how near is near.
    """
    centre, scale = _moments(bags, names)
    weights = (objects | ~objects.any(axis=1, keepdims=True)).astype(np.float32)
    means, usual = [], []
    for own in (False, True):
        at = 1 + names if own else np.zeros_like(names)
        directions = np.zeros((len(names), bags.width))
        for which, rows in _passes(bags):
            standard = (rows - centre[at[which], None]) / scale[at[which], None]
            directions[which] = _unit(np.einsum("nd,ndf->nf", weights[which], standard))
        sums = np.zeros((len(centre) - 1, bags.width))
        np.add.at(sums, names, directions)
        themselves, others = np.zeros(len(names)), np.zeros(len(names))
        for which, rows in _passes(bags):
            unit = _unit((rows - centre[at[which], None]) / scale[at[which], None])
            mean = sums[names[which]]
            themselves[which] = np.einsum("ndf,nf->nd", unit, _unit(mean)).max(1)
            # A picture is always like itself: how like it is the mean of the others?
            rest = _unit(mean - directions[which])
            others[which] = np.einsum("ndf,nf->nd", unit, rest).max(1)
        count = np.bincount(names)
        lower = np.minimum(_MIN, _SELF * np.bincount(names, themselves) / count)
        means.append(_unit(sums))
        common = np.bincount(names, others) / count
        near = np.maximum(np.maximum(lower, 0.01), 0 if own else common)
        near[list(few)] = 0
        usual.append(near)
    made = {"centre": centre, "scale": scale, "means": np.stack(means), "usual": np.stack(usual)}
    return {name: torch.from_numpy(value.astype(np.float32)) for name, value in made.items()}


def _moments(bags: BagSource, names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each column, float64 (1 + k, f): over all names, of each."""
    count = int(names.max()) + 1
    total, square = np.zeros((count, bags.width)), np.zeros((count, bags.width))
    for which, rows in _passes(bags):
        rows = rows.astype(np.float64)
        np.add.at(total, names[which], rows.sum(1))
        np.add.at(square, names[which], np.square(rows).sum(1))
    masks = bags.prompts * np.bincount(names)[:, None]
    total, square = total / masks, square / masks
    # Every name weighs the same, however many pictures it has.
    centre = np.concatenate([total.mean(0, keepdims=True), total])
    square = np.concatenate([square.mean(0, keepdims=True), square])
    return centre, deviations(centre, square)


def _passes(bags: BagSource) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the numbers of some bags and their rows, until all have come."""
    start = 0
    for rows, _ in bags.in_order():
        yield np.arange(start, start + len(rows)), rows
        start += len(rows)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-9)
