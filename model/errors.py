"""What can go wrong because of what a user gave us.

    GemmarayError                   everything below; its text is one line meant for a person
    ├── ParameterError (ValueError) a setting out of its range, or two that contradict each other
    │   └── ConstraintError         an answer's constraint can't be met, or takes too much
    ├── ConfigError                 config.json asks for something that we do not compute
    ├── CheckpointError             a checkpoint is missing, incomplete, surplus, mis-shaped, unsafe
    ├── TokenizerError              tokenizer files are missing, or not Gemma's
    ├── PromptError (ValueError)    one prompt can't be used; the others can
    │   └── ChatError               its messages break the rules of the chat template
    ├── TaskError                   the checkpoint has no head for what was asked
    └── EngineDeadError             a rank died: the engine must be built again

Each message says what is wrong, where, and how to mend it. `assert` is for our own mistakes.
"""


class GemmarayError(Exception):
    """Base of every error that a user can cause and mend."""


class ParameterError(GemmarayError, ValueError):
    """A setting is out of its range or contradicts another one."""


class ConstraintError(ParameterError):
    """A constraint is not understood, nothing can meet it, or it takes too much time or memory."""


class ConfigError(GemmarayError):
    """A checkpoint's config.json asks for something that is not computed here."""


class CheckpointError(GemmarayError):
    """A checkpoint is missing, incomplete, surplus, mis-shaped or unsafe to read."""


class TokenizerError(GemmarayError):
    """Tokenizer files are missing or are not Gemma's."""


class PromptError(GemmarayError, ValueError):
    """One prompt can't be used; its row gets this text, other rows go on."""


class ChatError(PromptError):
    """Messages that the chat template can't render as they are."""


class TaskError(GemmarayError):
    """The checkpoint has no head, or no tokenizer, for the task that was asked of it."""


class EngineDeadError(GemmarayError):
    """A rank of the engine died or stopped answering; nothing it held can be finished."""
