"""In which order, and under which headings, `gemmaray --help` lists the commands."""

import typer
from typer.models import CommandInfo

PANELS = {
    "Files in, files out": (
        "run",
        "generate",
        "classify",
        "score-labels",
        "tag",
        "embed",
        "retry-failed",
    ),
    "Look at a job": ("plan", "status", "verify", "report"),
    "Jobs on a cluster": ("submit", "jobs", "logs", "cancel"),
    "One request at a time": ("chat", "serve", "api-key"),
    "Models": ("convert", "quantize", "attention-mask"),
    "Set-up": ("doctor", "demo"),
}


def arrange(app: typer.Typer) -> None:
    """Put an app's commands into panels; one that has none comes last, without a heading."""
    places = {
        name: (number, panel)
        for number, (panel, name) in enumerate(
            (panel, name) for panel, names in PANELS.items() for name in names
        )
    }
    for command in app.registered_commands:
        if (name := name_of(command)) in places:
            command.rich_help_panel = places[name][1]
    last = (len(places), "")
    app.registered_commands.sort(key=lambda command: places.get(name_of(command), last)[0])


def name_of(command: CommandInfo) -> str:
    """Give a command's name, as Typer derives it."""
    assert command.callback is not None
    return command.name or command.callback.__name__.replace("_", "-")
