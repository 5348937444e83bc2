import math

from actors.calls import Piece
from cluster.serve.logprobs import CompletionTokens, chat_logprobs, joined, token_text
from model.outputs import LogprobsOutput, TokenLogprob

PIECES = {
    1: Piece(b"<bos>", in_text=False),
    2: Piece(b" a", in_text=True),
    3: Piece(b"\xe2", in_text=True),
    4: Piece(b"\x82", in_text=True),
    5: Piece(b"\xac", in_text=True),
    6: Piece(b" a", in_text=True),
}


def test_a_part_of_a_character_is_told_as_bytes() -> None:
    assert token_text(PIECES[2]) == " a"
    assert token_text(PIECES[3]) == r"bytes:\xe2"
    assert token_text(Piece(b"", in_text=False)) == ""


def test_nothing_infinite_is_told() -> None:
    told = chat_logprobs([TokenLogprob(2, -math.inf, ((3, -math.inf),))], PIECES)
    assert told is not None
    assert told.content[0].logprob == told.content[0].top_logprobs[0].logprob == -9999.0
    assert told.content[0].bytes == [32, 97]
    assert chat_logprobs(None, PIECES) is None


def test_places_are_those_of_characters_of_the_text() -> None:
    tokens = CompletionTokens(top=0)
    prompt = tokens.prompt(LogprobsOutput(2, (1, 2), (None, -1.0)), PIECES)
    answer = tokens.answer([TokenLogprob(n, -1.0) for n in (3, 4, 5, 2)], PIECES)
    whole = joined([prompt, answer])
    assert whole.text_offset == [0, 0, 2, 2, 2, 3]
    assert whole.token_logprobs == [None, -1.0, -1.0, -1.0, -1.0, -1.0]
    assert whole.top_logprobs is None


def test_of_tokens_that_read_alike_the_likelier_is_told() -> None:
    told = CompletionTokens(top=2).answer([TokenLogprob(2, -1.0, ((6, -0.5), (2, -1.0)))], PIECES)
    assert told.top_logprobs == [{" a": -0.5}]
