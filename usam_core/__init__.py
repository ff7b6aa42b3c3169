"""Masks from class names: what a Python program or a notebook uses of usam.

    import usam_core as usam

    project = usam.open("project.yaml")
    labelled = project.predict("street.jpg")
    labelled.plot()

Names are looked up when they are first used, so that the import itself costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from usam_core.api import Head, Project, fit, open
    from usam_core.config.model import HeadConfig, InferenceConfig, SamConfig
    from usam_core.errors import UsamError
    from usam_core.labels import Instance, LabelledImage, LabelMap
    from usam_core.types import MaskSet

    __version__: str

__all__ = [
    "Head",
    "HeadConfig",
    "InferenceConfig",
    "Instance",
    "LabelMap",
    "LabelledImage",
    "MaskSet",
    "Project",
    "SamConfig",
    "UsamError",
    "__version__",
    "fit",
    "open",
]

_HOMES = {
    "Head": "usam_core.api",
    "HeadConfig": "usam_core.config.model",
    "InferenceConfig": "usam_core.config.model",
    "Instance": "usam_core.labels",
    "LabelMap": "usam_core.labels",
    "LabelledImage": "usam_core.labels",
    "MaskSet": "usam_core.types",
    "Project": "usam_core.api",
    "SamConfig": "usam_core.config.model",
    "UsamError": "usam_core.errors",
    "fit": "usam_core.api",
    "open": "usam_core.api",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        value: object = version("usam")
    elif name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
