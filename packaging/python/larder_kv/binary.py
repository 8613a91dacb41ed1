"""Finds the binary that this package carries."""

import importlib.metadata

DISTRIBUTION = "larder-kv"


def find_binary() -> str:
    """The path of the ``larder`` that was installed with this package, not of another one on PATH.

    Raises:
        FileNotFoundError: This package was not installed from its wheel.
    """
    try:
        installed = importlib.metadata.files(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        installed = []
    for file in installed:
        if file.name == "larder":
            return str(file.locate())
    raise FileNotFoundError(f"the binary is missing: install {DISTRIBUTION} from its wheel")
