"""vLLM, by its offline `LLM.generate` on token ids. Runs in the interpreter of vLLM's own venv."""

from collections.abc import Sequence

import vllm
from vllm import LLM, SamplingParams
from vllm.platforms import current_platform

from benchmarks.spec import Answers, Contender, Request, Spec


class Vllm(Contender):
    """Continuous batching, compiled, prefix cache on; the settings are arguments of LLM.

    `kv_gib`, the size of its key-value cache, is read by `launch`: vLLM takes it from its
    environment. On an AMD CPU it routes linears through zentorch by itself, where it is installed.
    """

    def __init__(self, spec: Spec) -> None:
        options = {"max_num_seqs": 128, "max_num_batched_tokens": 2048, "max_model_len": 2560}
        options |= {key: value for key, value in spec.settings.items() if key != "kv_gib"}
        zen = getattr(current_platform, "is_zen_cpu", lambda: False)()
        self.version = vllm.__version__
        self.settings = f"seqs{options['max_num_seqs']} tok{options['max_num_batched_tokens']}"
        self.settings += " zentorch" if zen else ""
        self.precision = spec.dtype
        self._llm = LLM(
            model=str(spec.checkpoint),
            dtype=spec.dtype,
            seed=0,
            enable_prefix_caching=True,
            **options,
        )

    def run(self, requests: Sequence[Request]) -> Answers:
        """Answer all requests, from an empty prefix cache."""
        self._llm.reset_prefix_cache()
        params = [
            SamplingParams(
                temperature=0.0, max_tokens=r.output_len, ignore_eos=True, detokenize=False
            )
            for r in requests
        ]
        prompts = [{"prompt_token_ids": request.prompt} for request in requests]
        outputs = self._llm.generate(prompts, params, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]

    def close(self) -> None:
        """Nothing to end: the engine's process ends with this one."""
