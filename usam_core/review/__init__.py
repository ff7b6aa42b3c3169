"""What a person decides of masks: the log of decisions, the order of showing, the page."""

from typing import Literal

Order = Literal["mix", "entropy", "disagreement", "threshold", "random"]
"""What is shown first; `mix` takes turns among the measures that there are."""
