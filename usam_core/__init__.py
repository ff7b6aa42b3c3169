"""Masks from class names: the names that a program may build on."""


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("usam")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
