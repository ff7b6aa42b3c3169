"""Class indexes, the ids that label maps and COCO have for them, names and colors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from usam_core.config.schema import ProjectConfig
from usam_core.config.training import BACKGROUND, class_colors

UNKNOWN = "unknown"
"""Name of an id that is no class's: void, or what a person painted."""

Number = TypeVar("Number", int, np.ndarray)


@dataclass(frozen=True)
class LabelMap:
    """The classes of a set of labels. This is the only place that turns indexes into ids and back.

    Attributes:
        names: of the classes, by class index from 0.
        colors: uint8 (c + 1, 3), by id: background first.
        negatives: names that the head has learned but never paints.
    """

    names: tuple[str, ...]
    colors: np.ndarray = field(compare=False, repr=False)
    negatives: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: ProjectConfig) -> "LabelMap":
        """The label map of a project at its level."""
        chosen = {spec.name: spec.color for spec in config.classes}
        return cls.of_names(config.label_names, chosen, [spec.name for spec in config.negatives])

    @classmethod
    def of_names(
        cls,
        names: Sequence[str],
        chosen: Mapping[str, str | None] | None = None,
        negatives: Sequence[str] = (),
    ) -> "LabelMap":
        """A label map of names; colors that `chosen` does not give are the VOC palette's."""
        return cls(tuple(names), class_colors(names, chosen or {}), tuple(negatives))

    @staticmethod
    def id_of(class_index: Number) -> Number:
        """The id of a class in label maps and COCO files; arrays are mapped item by item."""
        return class_index + 1

    @staticmethod
    def index_of(id_: Number) -> Number:
        """The class index of an id; -1 for background, which is no class."""
        return id_ - 1

    def name_of(self, id_: int) -> str:
        """The name of an id; `background` for 0, `unknown` for what is no class's.

        >>> labels = LabelMap.of_names(["cat", "dog"])
        >>> print(*(labels.name_of(id_) for id_ in (0, 2, 255)))
        background dog unknown
        """
        every = (BACKGROUND, *self.names)
        return every[id_] if 0 <= id_ < len(every) else UNKNOWN

    def ids(self) -> dict[str, int]:
        """The id of each class by name, in order."""
        return {name: self.id_of(index) for index, name in enumerate(self.names)}

    def categories(self) -> list[dict[str, Any]]:
        """The categories of a COCO file."""
        return [{"id": id_, "name": name} for name, id_ in self.ids().items()]
