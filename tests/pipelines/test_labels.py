import pytest

from model.errors import ParameterError
from model.tokenizer import GemmaTokenizer, load_tokenizer
from pipelines.labels import label_tokens
from pipelines.task_settings import LabelSettings
from pipelines.tasks import Row, ScoreLabelsColumns

from .data import CAUSAL_LM

END_OF_TURN = "<end_of_turn>"


@pytest.fixture(scope="module")
def tokenizer() -> GemmaTokenizer:
    loaded = load_tokenizer(CAUSAL_LM)
    assert loaded is not None
    return loaded


def test_labels_are_what_the_model_would_write(tokenizer: GemmaTokenizer) -> None:
    settings = LabelSettings(labels=("games", "web"))
    for chat in (True, False):
        labels = label_tokens(settings, tokenizer, chat=chat)
        assert [tokenizer.decode(ids) for ids in labels.plain] == ["games", "web"]
        assert [tokenizer.decode(ids) for ids in labels.spaced] == [" games", " web"]
        assert labels.longest == max(map(len, labels.plain + labels.spaced))


def beginning(tokenizer: GemmaTokenizer) -> tuple[str, str]:
    """Two labels of which the tokens of one begin the other's."""
    ids = tokenizer.encode_continuation("7777")
    assert len(ids) == 4, "each digit is a token of its own in Gemma's vocabulary"
    return "7", "77"


def test_in_a_chat_the_end_of_the_turn_tells_labels_apart(tokenizer: GemmaTokenizer) -> None:
    labels = label_tokens(LabelSettings(labels=(*beginning(tokenizer), "x")), tokenizer, chat=True)
    for ids in (*labels.plain, *labels.spaced):
        assert tokenizer.decode(ids, skip_special=False).endswith(END_OF_TURN)


def test_it_is_left_out_where_it_is_not_needed(tokenizer: GemmaTokenizer) -> None:
    labels = label_tokens(LabelSettings(labels=("games", "web")), tokenizer, chat=True)
    assert END_OF_TURN not in tokenizer.decode(labels.plain[0], skip_special=False)


def test_plain_text_refuses_labels_that_could_never_lose(tokenizer: GemmaTokenizer) -> None:
    short, long = beginning(tokenizer)
    with pytest.raises(ParameterError, match=f"'{short}' is how '{long}' begins"):
        label_tokens(LabelSettings(labels=(long, short)), tokenizer, chat=False)
    mean = LabelSettings(labels=(long, short), normalize="mean")
    for chat in (True, False):
        labels = label_tokens(mean, tokenizer, chat=chat)
        assert labels.names == (long, short)
        assert END_OF_TURN not in tokenizer.decode(labels.plain[0], skip_special=False)


def test_each_row_takes_the_tokens_that_fit_its_prompt(tokenizer: GemmaTokenizer) -> None:
    labels = label_tokens(LabelSettings(labels=("games", "web")), tokenizer, chat=False)
    columns = ScoreLabelsColumns(labels)
    for spaced, ids in ((True, labels.spaced), (False, labels.plain)):
        task = columns.task(Row([1], spaced=spaced, seed=0))
        assert getattr(task, "label_ids", None) == ids
    assert columns.reserve == labels.longest - 1
