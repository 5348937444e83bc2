"""What there is to show of a text's attention masks: tokens, masks, and how they are called."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size

from cluster.wording import counted
from model.attention_mask import AttentionMask, attention_masks
from model.config import ModelConfig
from model.errors import PromptError, TokenizerError
from model.locate import locate
from model.tokenizer import GemmaTokenizer, load_tokenizer

NAMES = {"full_attention": "Full attention", "sliding_attention": "Sliding attention"}
# Layers that are named one by one.
MOST_LAYERS = 4


@dataclass(frozen=True, slots=True)
class Picture:
    """The masks of one text.

    Attributes:
        model: as the user calls it.
        config: of the model.
        text: as the user gave it.
        ids: its tokens, as the model is given them.
        labels: of the tokens: text in quotes with all that is not printable escaped, control
            tokens and single bytes as in `<bos>` and `<0xE2>`.
        masks: of the kinds of layers that the model has.
    """

    model: str
    config: ModelConfig
    text: str
    ids: Sequence[int]
    labels: Sequence[str]
    masks: Sequence[AttentionMask]

    @property
    def title(self) -> str:
        """Say what it is a picture of."""
        layers = counted(len(self.config.layer_types), "layer")
        return f"Attention of {self.model}, {layers}, over {counted(len(self.ids), 'token')}"

    @property
    def notes(self) -> list[str]:
        """Say what one could take wrong."""
        notes = []
        same = len(self.masks) > 1 and (self.masks[0].sees == self.masks[1].sees).all()
        if same and len(self.ids) > 1:
            notes.append(
                "The text is no longer than the window, so sliding layers see what full ones see; "
                f"--window {max(1, len(self.ids) // 2)} shows a smaller one."
            )
        return notes

    def heading(self, mask: AttentionMask) -> tuple[str, str, str]:
        """Name a mask: what it is, how far it reaches, and which layers have it."""
        return NAMES[mask.kind], self._reach(mask), self._layers(mask)

    def _reach(self, mask: AttentionMask) -> str:
        if mask.window is None:
            return "a token sees all up to itself"
        reach = f"window of {counted(mask.window, 'token')}"
        own = self.config.window(mask.kind)
        return reach if mask.window == own else f"{reach} (model: {own:,})"

    def _layers(self, mask: AttentionMask) -> str:
        layers = mask.layers
        named = ", ".join(map(str, layers[: MOST_LAYERS if len(layers) <= MOST_LAYERS else 2]))
        if len(layers) > MOST_LAYERS:
            named += f", …, {layers[-1]}"
        noun = "layer" if len(layers) == 1 else "layers"
        return f"{noun} {named} ({len(layers)} of {len(self.config.layer_types)})"


def picture_of(
    text: str, model: str, revision: str | None, *, chat: bool, window: int | None
) -> Picture:
    """Look at a model's config and tokenizer, and find the masks of a text.

    Args:
        text: anything.
        model: see `locate`; its weights are not read.
        revision: of a hub id.
        chat: whether the text goes through the chat template.
        window: see `attention_masks`.

    Raises:
        GemmarayError: the model or the text can't be used, or the window is none of this model.
    """
    folder = locate(model, revision, weights=False)
    config = ModelConfig.from_folder(folder)
    tokenizer = load_tokenizer(folder)
    if tokenizer is None:
        raise TokenizerError(f"{model} has no tokenizer files, so it reads no text")
    if chat:
        ids = tokenizer.encode_messages([{"role": "user", "content": text}])
    else:
        ids = tokenizer.encode_text(text)
    if len(ids) > config.max_position_embeddings:
        raise PromptError(
            f"the text has {len(ids):,} tokens, and the model reads "
            f"{config.max_position_embeddings:,} at most"
        )
    labels = [_label(tokenizer, token_id) for token_id in ids]
    return Picture(model, config, text, ids, labels, attention_masks(config, len(ids), window))


def shortened(label: str, cells: int) -> str:
    """Cut a label so that it takes no more than so many columns of a terminal."""
    if cell_len(label) <= cells:
        return label
    return f"{set_cell_size(label, cells - 1).rstrip()}…"


def _label(tokenizer: GemmaTokenizer, token_id: int) -> str:
    data = tokenizer.piece(token_id)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return f"<0x{data.hex().upper()}>"
    return text if token_id in tokenizer.control_ids else repr(text)
