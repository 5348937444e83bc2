"""`gemmaray chat`.

Torch takes seconds to import, so what needs it is imported where it is used (PLC0415).
"""

import typer

from cluster.signature import with_options

from .options import ChatOptions, ChatSampling


@with_options
def chat(options: ChatOptions, sampling: ChatSampling) -> None:
    """Chat with a model, here or behind a URL.

    Enter sends, Alt-Enter begins another line, Ctrl-C stops an answer, Ctrl-D leaves, /help lists
    commands. Lines of a pipe are messages, too: answers go to standard output.
    """
    options.check()
    from .start import start_chat  # noqa: PLC0415

    raise typer.Exit(start_chat(options, sampling.settings()))
