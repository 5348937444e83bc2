"""What a constraint may cost: fixed numbers, the same in the trial and in the engine."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llguidance import LLParserLimits

# Of a trial; a schema of a hundred properties takes some 0.01 s and hardly any memory.
TRIAL_CPU_S = 3
TRIAL_WALL_S = 60.0
TRIAL_MEMORY = 1 << 30

# Of the library, as it counts them. A lexer state takes 1 to 2 kB and is kept with the compiled
# constraint; a step's items and fuel bound the time of one mask to some 0.1 s at the worst.
PARSER_LIMITS: dict[str, Any] = {
    "max_items_in_row": 10_000,
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 50_000,
    "max_lexer_states": 50_000,
    "max_grammar_size": 500_000,
    # Compiling is then the same work whatever the vocabulary, as the trial assumes.
    "precompute_large_lexemes": False,
    "verbose_errors": False,
}

COMPILED_AT_ONCE = 2
COMPILED_KEPT = 64


def parser_limits() -> "LLParserLimits":
    """Give the library's limits in its own form."""
    from llguidance import LLParserLimits  # noqa: PLC0415 - see the package's docstring

    return LLParserLimits(**PARSER_LIMITS)
