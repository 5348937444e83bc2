"""The `gemmaray` command: where it starts, and how it ends."""

import sys
from typing import NoReturn

from .environment import ForeignPackageError, check_packages

USER_ERROR = 2
INTERRUPTED = 130


def main() -> NoReturn:
    """Run the command; an error that the user can mend is one message and a status, no traceback.

    Exit status: 0, also when some rows failed; 1 when all rows failed, or a line of standard
    input did; 2 for what the user can mend; 130 after Ctrl-C or SIGTERM.
    """
    try:
        check_packages()
    except ForeignPackageError as error:
        _end(f"error: {error}", USER_ERROR)
    _run()


def _run() -> NoReturn:
    # Not at the top: `check_packages` first finds out whose packages these are.
    from typer import TyperException  # noqa: PLC0415

    from model.errors import GemmarayError  # noqa: PLC0415
    from pipelines.errors import JobInterrupted  # noqa: PLC0415

    from .commands import app  # noqa: PLC0415

    try:
        sys.exit(app(prog_name="gemmaray", standalone_mode=False))
    except TyperException as error:
        _end(f"error: {error.format_message()} (see gemmaray --help)", error.exit_code)
    except JobInterrupted as error:
        _end(str(error), INTERRUPTED)
    except GemmarayError as error:
        _end(f"error: {str(error).removeprefix('JobSpec: ')}", USER_ERROR)


def _end(message: str, status: int) -> NoReturn:
    sys.stderr.write(f"gemmaray: {message}\n")
    sys.exit(status)
