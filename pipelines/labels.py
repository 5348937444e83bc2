"""The labels of a job, encoded; how is said in model.labels."""

from model.labels import LabelTokens, encode_labels
from model.tokenizer import GemmaTokenizer

from .task_settings import LabelSettings


def label_tokens(settings: LabelSettings, tokenizer: GemmaTokenizer, *, chat: bool) -> LabelTokens:
    """Encode the labels of a job.

    Raises:
        ParameterError: two labels can't be told apart.
        PromptError: a label is no text that can be encoded.
    """
    return encode_labels(settings.labels, settings.normalize, tokenizer, chat=chat)
