"""Score the demo model with lm-evaluation-harness, over HTTP and with the engine directly.

    pip install "lm-eval[api]"
    gemmaray serve --model examples/demo-model/causal-lm --port 8000
    python -m tests.cluster.serve.harness --url http://127.0.0.1:8000 --limit 200

The harness's own clients (local-completions, local-chat-completions) ask the server; a model of the
harness that holds an Engine answers the same documents offline. All scores must be equal: the
accuracy of six sections by likelihood, and the exact match of generated ones. Needs no network: the
documents are those of examples/packages.parquet.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.api.model import TemplateLM
from lm_eval.tasks import TaskManager

from model import Engine, PromptLogprobs, SamplingParams
from model.params import EngineConfig

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
MODEL = EXAMPLES / "demo-model" / "causal-lm"
SECTIONS = ["libs", "libdevel", "doc", "python", "perl", "games"]
QUESTION = "Name the section of this Debian package.\n{{package}}: {{synopsis}}"
DATA = {
    "dataset_path": "parquet",
    "dataset_kwargs": {"data_files": {"test": str(EXAMPLES / "packages.parquet")}},
    "test_split": "test",
    "doc_to_text": QUESTION,
}
CHOICES = {
    **DATA,
    "task": "section_choices",
    "output_type": "multiple_choice",
    "doc_to_choice": SECTIONS,
    "doc_to_target": "{{['libs', 'libdevel', 'doc', 'python', 'perl', 'games'].index(section)"
    " if section in ['libs', 'libdevel', 'doc', 'python', 'perl', 'games'] else 0}}",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
}
WRITTEN = {
    **DATA,
    "task": "section_written",
    "output_type": "generate_until",
    "doc_to_target": "{{section}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 12, "temperature": 0},
    "metric_list": [{"metric": "exact_match"}],
}


class EngineLM(TemplateLM):  # type: ignore[misc]
    """The engine as a model of the harness."""

    def __init__(self) -> None:
        super().__init__()
        self._engine = Engine(EngineConfig(checkpoint=str(MODEL), threads=1))
        assert self._engine.tokenizer is not None
        self._tokenizer = self._engine.tokenizer

    @property
    def tokenizer_name(self) -> str:
        """Name what its chats are kept under."""
        return MODEL.name

    @property
    def eot_token_id(self) -> int:
        """Give <eos>."""
        return self._engine.model_config.eos_token_ids[0]

    def tok_encode(self, string: str, *_: Any, **__: Any) -> list[int]:
        """Encode a text, behind <bos>."""
        return list(self._tokenizer.encode_text(string))

    def apply_chat_template(self, chat_history: list[dict[str, str]], **_: Any) -> str:
        """Keep the messages: they are encoded where they are answered."""
        return json.dumps(chat_history)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        names = [
            self._engine.add_request([*context, *continuation], [PromptLogprobs(top=1)])
            for _, context, continuation in requests
        ]
        outputs = {}
        while self._engine.has_work:
            outputs |= {update.request_id: update.output for update in self._engine.step()}
        scores = []
        for name, (_, context, continuation) in zip(names, requests, strict=True):
            (scored,) = outputs[name].results
            places = range(len(context), len(context) + len(continuation))
            best = [scored.tops[place][0][0] for place in places]
            scores.append((sum(scored.logprobs[p] for p in places), best == continuation))
        return scores

    def generate_until(self, requests: Sequence[Any], **_: Any) -> list[str]:
        """Answer greedily."""
        answers = []
        for context, settings in (request.args for request in requests):
            params = SamplingParams(
                max_tokens=settings["max_gen_toks"], stop=tuple(settings["until"]), temperature=0
            )
            chat = context.startswith('[{"role"')
            prompt = json.loads(context) if chat else self.tok_encode(context)
            answers.append(self._engine.generate([prompt], params)[0].text)
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Any], **_: Any) -> list[float]:
        """No task here asks for it."""
        raise NotImplementedError


def scores(model: Any, task: dict[str, Any], limit: int, **options: Any) -> dict[str, Any]:
    """Evaluate a task, and give its scores and every single answer."""
    found = lm_eval.simple_evaluate(
        model,
        tasks=[dict(task)],
        limit=limit,
        task_manager=TaskManager(include_defaults=False),
        bootstrap_iters=0,
        verbosity="ERROR",
        **options,
    )
    names = [f"{metric['metric']},none" for metric in task["metric_list"]]
    figures = {name: float(found["results"][task["task"]][name]) for name in names}
    answers = [sample["filtered_resps"] for sample in found["samples"][task["task"]]]
    return {"scores": figures, "answers": answers}


def main() -> None:
    """Compare, and say what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--url", required=True, help="of a server of the demo model, without /v1")
    parser.add_argument("--name", default=MODEL.name, help="of the model in requests")
    parser.add_argument("--limit", type=int, default=200, help="documents")
    args = parser.parse_args()
    online = {
        "model": args.name,
        "base_url": f"{args.url}/v1/completions",
        "tokenizer": str(MODEL),
        "add_bos_token": True,
        "num_concurrent": 8,
    }
    chat = {**online, "base_url": f"{args.url}/v1/chat/completions"}
    engine, ok = EngineLM(), True
    for how, model, task, settings, options in (
        ("local-completions", "local-completions", CHOICES, online, {}),
        ("local-completions", "local-completions", WRITTEN, online, {}),
        (
            "local-chat-completions",
            "local-chat-completions",
            WRITTEN,
            chat,
            {"apply_chat_template": True},
        ),
    ):
        asked = scores(model, task, args.limit, model_args=settings, **options)
        wanted = scores(engine, task, args.limit, **options)
        same = sum(a == b for a, b in zip(asked["answers"], wanted["answers"], strict=True))
        equal = asked["scores"] == wanted["scores"]
        ok &= equal
        print(
            f"{how}, {task['task']}: {asked['scores']} {'==' if equal else '!='} "
            f"{wanted['scores']}; {same} of {len(asked['answers'])} answers the same"
        )
    sys.exit(not ok)


if __name__ == "__main__":
    main()
