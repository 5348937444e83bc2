"""From the model's logits to the next token of each sequence.

A row's scores are changed in the order of transformers' `generate`
(`GenerationMixin._get_logits_processor`, transformers 5):

    logit_bias → repetition_penalty → presence and frequency penalties → bans and masks
    → temperature → top_k → top_p → min_p

The two penalties that transformers lacks are OpenAI's, and stand behind the repetition penalty as
in vLLM. Greedy rows stop before the temperature and take the best score, the lowest id among
equals. Scores and probabilities are float32, running sums float64.

A row's token depends on its own logits, settings, seed and step: never on the rows beside it, nor
on how they are grouped here, nor on how many ranks the vocabulary is cut over. (The order of a
running sum may vary with the ranks, and on a GPU with the group's size: that moves the bounds
between tokens by the rounding of float32, and of float64.)
"""

from .draw import child_seed, uniform
from .rows import SampledToken, SamplingRow, check_token_ids
from .sampler import Draws, processed_logits, start_sampling, token_logprobs
from .vocabulary import Vocabulary

__all__ = [
    "Draws",
    "SampledToken",
    "SamplingRow",
    "Vocabulary",
    "check_token_ids",
    "child_seed",
    "processed_logits",
    "start_sampling",
    "token_logprobs",
    "uniform",
]
