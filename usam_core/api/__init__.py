"""usam from Python; `import usam_core as usam` gives the same names without importing them yet."""

from usam_core.api.head import Head
from usam_core.api.learn import fit
from usam_core.api.project import Project, open

__all__ = ["Head", "Project", "fit", "open"]
