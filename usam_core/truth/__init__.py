"""What is known of the images that were labelled: COCO and PASCAL VOC, checked record by record."""

from usam_core.config.project import Project
from usam_core.errors import ConfigError
from usam_core.truth.base import Truth
from usam_core.truth.coco import CocoTruth
from usam_core.truth.voc import VocTruth


def open_truth(project: Project) -> Truth:
    """Return the project's truth in the project's labels.

    Raises:
        ConfigError: the project has no `evaluation` section.
        InputError: the truth cannot be read.
    """
    config = project.config
    if config.evaluation is None or project.truth_path is None:
        raise ConfigError(f"{project.file}: no `evaluation` section; nothing to measure against")
    words = {
        word: config.label_of[spec.name]
        for spec in config.classes
        for word in (spec.name, *spec.synonyms)
    }
    # Truth may use the coarser names already.
    words |= {label: label for label in config.label_names}
    if config.evaluation.format == "coco":
        return CocoTruth(project.truth_path, words, config.label_names)
    names = config.evaluation.classes or [spec.name for spec in config.classes]
    return VocTruth(project.truth_path, names, words, config.label_names, project.objects_path)
