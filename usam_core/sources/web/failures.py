"""How a fetch can end without an answer that is of use."""

from collections.abc import Callable

from usam_core.redact import without_secrets

Permit = Callable[[str], None]
"""Looks at an address before each request to it; raises `FetchFailed` to forbid it."""


class FetchFailed(Exception):
    """An address gave nothing of use.

    Args:
        code: one short word for counting, as in `Rejected.code`.
        reason: a sentence for people.
        again: whether another try may go better.
        wait: seconds that the server asked to wait before it.
        lost: whether it looks as if this machine, not the other one, had no network.
    """

    def __init__(
        self,
        code: str,
        reason: str,
        *,
        again: bool = False,
        wait: float | None = None,
        lost: bool = False,
    ) -> None:
        self.code, self.reason = code, without_secrets(reason)
        super().__init__(self.reason)
        self.again = again
        self.wait = wait
        self.lost = lost

    @property
    def settled(self) -> bool:
        """Whether a page that failed so stays as it is: asked tomorrow, it would fail again."""
        return not self.again and self.code not in ("timeout", "tls", "private_address")


class CapReached(Exception):
    """The class has used up its time or its bytes; what is left may be fetched later."""
