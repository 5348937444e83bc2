"""The arguments of an application in a YAML file that an environment variable names."""

import os
from pathlib import Path

import yaml
from pydantic import ValidationError

from model.errors import ParameterError
from model.params import one_line

from .settings import ServeArgs


def read_args(variable: str) -> ServeArgs:
    """Read the arguments.

    Raises:
        ParameterError: the variable is not set, or the file can't be used.
    """
    path = os.environ.get(variable)
    if not path:
        raise ParameterError(f"set {variable} to a YAML file with the arguments of build_app")
    try:
        return ServeArgs.model_validate(yaml.safe_load(Path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = one_line(error) if isinstance(error, ValidationError) else error
        raise ParameterError(f"{path}: {reason}") from None
