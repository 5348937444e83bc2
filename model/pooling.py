"""From a head's outputs to scores, and which hidden states a vector is made of."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .errors import ParameterError
from .tasks import FunctionToApply


@dataclass(frozen=True, slots=True)
class Scores:
    """The labels of a head and how its outputs become scores.

    Attributes:
        labels: in the order of the head's outputs.
        problem_type: as in the checkpoint's config.
    """

    labels: tuple[str, ...]
    problem_type: str | None = None

    def of(self, logits: Tensor, function: FunctionToApply = "default") -> Tensor:
        """Return the scores of logits [labels].

        Args:
            logits: the head's outputs.
            function: "default" chooses as transformers' TextClassificationPipeline: none for
                regression, a sigmoid of each output for several labels at a time or a single one,
                else a softmax over all.
        """
        match self._default if function == "default" else function:
            case "sigmoid":
                return logits.sigmoid()
            case "softmax":
                return logits.softmax(-1)
            case _:
                return logits

    @property
    def _default(self) -> FunctionToApply:
        if self.problem_type == "regression":
            return "none"
        independent = self.problem_type == "multi_label_classification" or len(self.labels) == 1
        return "sigmoid" if independent else "softmax"


def last_real_position(tokens: Sequence[int], pad_id: int | None) -> int:
    """Return the rightmost position whose token is not pad; 0 if all are, the last without a pad.

    As transformers' GenericForSequenceClassification pools (the attention mask plays no part).
    """
    for position in range(len(tokens) - 1, -1, -1):
        if tokens[position] != pad_id:
            return position
    return 0


def inner_layer(layer: int, num_layers: int) -> int | None:
    """Find hidden states by their number in transformers' `output_hidden_states`.

    Args:
        layer: 0 is the scaled embeddings, i the output of layer i - 1, num_layers and -1 what comes
            after the last layer and the final norm; negative numbers count from the end.
        num_layers: of the model.

    Returns:
        The layer whose input they are, or None for the final ones.

    Raises:
        ParameterError: there is no such layer.
    """
    if not -num_layers - 1 <= layer <= num_layers:
        raise ParameterError(
            f"layer is {layer}; this model's hidden states are numbered 0 (the embeddings) to "
            f"{num_layers} (after the last layer and norm), or {-num_layers - 1} to -1"
        )
    index = layer % (num_layers + 1)
    return None if index == num_layers else index
