"""Whose packages these are, found out before they are imported."""

import importlib.util
from pathlib import Path

PACKAGES = ("cluster", "pipelines", "actors", "model")


class ForeignPackageError(ImportError):
    """A package of ours is missing, or another one of the same name stands in its way."""


def check_packages() -> None:
    """Make sure that our packages, whose names are short, are the ones that an import finds.

    Raises:
        ForeignPackageError: they are not, say since PYTHONPATH leads to some folder `model`.
    """
    home = package_folder("cluster").parent
    for name in PACKAGES:
        folder = package_folder(name)
        if folder.parent != home:
            raise ForeignPackageError(
                f"`import {name}` finds {folder}, not gemmaray's own in {home}: "
                "unset PYTHONPATH, or rename that folder"
            )


def package_folder(name: str) -> Path:
    """Tell where a top-level package lies, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ForeignPackageError(f"the package {name} is missing: install gemmaray again")
    return Path(spec.origin).resolve().parent
