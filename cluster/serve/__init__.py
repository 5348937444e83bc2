"""Online serving: an HTTP front that speaks OpenAI's API, on Ray Serve.

    serve run cluster.serve:build_app model=google/gemma-2-2b-it api_key_file=keys.txt
    serve deploy config.yaml                # import_path: cluster.serve:build_app
    GEMMARAY_SERVE_CONFIG=args.yaml serve build cluster.serve:app

`gemmaray serve` does the first on a Ray of its own. Ray is imported when an application is built.
"""

from typing import TYPE_CHECKING

from .settings import Limits, ModelArgs, ServeArgs

if TYPE_CHECKING:
    from ray.serve import Application

__all__ = ["Limits", "ModelArgs", "ServeArgs", "build_app"]

CONFIG_VARIABLE = "GEMMARAY_SERVE_CONFIG"


def build_app(args: ServeArgs) -> "Application":
    """Give the application that serves these models.

    Raises:
        GemmarayError: a file of keys or a setting can't be used.
    """
    from .door import application  # noqa: PLC0415 - brings Ray

    return application(args)


def __getattr__(name: str) -> "Application":
    """Give `app`, for `serve build`, which takes no arguments: they are read from a file."""
    if name != "app":
        raise AttributeError(name)
    from .configfile import read_args  # noqa: PLC0415 - nobody else needs it

    return build_app(read_args(CONFIG_VARIABLE))
