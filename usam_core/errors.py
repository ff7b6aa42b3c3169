"""The tree of errors, and which exit code each becomes.

    UsamError                  1  something failed that the user did not cause
    ├── UserError              2  the user can fix it: a value, a file, a missing step
    │   ├── ConfigError           project.yaml says something that cannot be meant
    │   ├── InputError            a file or folder that the user named is not usable
    │   ├── MissingExtraError     a setting needs packages that are not installed
    │   └── MissingStepError      an earlier step has to run first
    ├── StoreError             1  what we wrote before is damaged or of another kind
    ├── GateError              1  the run ended, but its results are not to be trusted
    ├── WorkerError         1  worker processes died over one piece of work, again and again
    └── TransientError         1  the world failed (network, hub); trying again may help

Every message names the file, the value that came, what was expected, and the fix.
"""

from usam_core.redact import without_secrets


class UsamError(Exception):
    """Base of every error that usam raises on purpose; its message holds no secrets of URLs."""

    exit_code = 1

    def __init__(self, *args: object) -> None:
        super().__init__(*(without_secrets(a) if isinstance(a, str) else a for a in args))


class UserError(UsamError):
    """Something the user can put right."""

    exit_code = 2


class ConfigError(UserError):
    """`project.yaml` holds an unknown key, a wrong type, or a value that cannot be meant."""


class InputError(UserError):
    """A file or a folder that the user named is missing, empty or unreadable."""


class StoreAccessError(InputError):
    """A store of images cannot be asked at all, for want of keys, a package or a right address.

    It says nothing about any image: none may be left out for it.
    """


class MissingExtraError(UserError):
    """A setting or a command needs an extra of usam that is not installed."""


class MissingStepError(UserError):
    """A step was asked for before the step that it reads from."""


class StoreError(UsamError):
    """A store, a head or a record on disk is damaged or was written by something else."""


class GateError(UsamError):
    """A run did not pass the quality gate; its results are kept."""


class WorkerError(UsamError):
    """Worker processes died again and again over one piece of work."""


class TransientError(UsamError):
    """The world failed in a way that may heal: Prefect retries only these."""
