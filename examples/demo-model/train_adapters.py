"""Train the demo model's LoRA adapters with PEFT: the same answers, in another form.

    python examples/demo-model/train_adapters.py [--packages saved.txt] [NAME ...]

Writes adapters/NAME under --out, and prints how often each is right on the held-out sample.
"""

import argparse
import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import torch
from batches import Encoder, in_batches
from packages import Package, load, sample, section_prompt, split
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer
from train import Schedule, Trainer, lm_loss
from transformers import Gemma2ForCausalLM

from model import Engine, EngineConfig, SamplingParams

HERE = Path(__file__).parent
FORMS: dict[str, Callable[[str], str]] = {
    "json": lambda section: json.dumps({"section": section}),
    "upper": str.upper,
}
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RATE = 4e-3


def train(
    base: Path, form: Callable[[str], str], packages: list[Package], epochs: int
) -> PeftModel:
    """Teach one form of the answer; every section is seen about as often as it occurs."""
    rng = random.Random(0)
    encoder = Encoder(Tokenizer.from_file(str(base / "tokenizer.json")))
    model = Gemma2ForCausalLM.from_pretrained(
        base, dtype=torch.float32, attn_implementation="eager"
    )
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=PROJECTIONS)
    adapted = get_peft_model(model, config)
    rows = [
        encoder.section(package._replace(section=form(package.section))) for package in packages
    ]
    lengths = [len(row.ids) for row in rows]
    batches = [batch for _ in range(epochs) for batch in in_batches(lengths, rng)]
    trainer = Trainer(adapted, Schedule(epochs, RATE), len(batches))
    for batch in batches:
        trainer.step(lm_loss(adapted.base_model.model, [rows[index] for index in batch]))
    return adapted


def save(adapted: PeftModel, folder: Path) -> None:
    """Save the adapter alone, in bfloat16, with a base that is found from the repository's root."""
    adapted.to(torch.bfloat16)
    adapted.peft_config["default"].base_model_name_or_path = "examples/demo-model/causal-lm"
    adapted.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # a form to fill in


def accuracy(
    base: Path, folder: Path, form: Callable[[str], str], packages: list[Package]
) -> float:
    """Share of packages whose greedy answer is the section in its form, to the letter."""
    prompts = [[{"role": "user", "content": section_prompt(package)}] for package in packages]
    with Engine(EngineConfig(checkpoint=str(base), adapter=str(folder))) as engine:
        outputs = engine.generate(prompts, SamplingParams(max_tokens=24))
    right = [o.text == form(p.section) for o, p in zip(outputs, packages, strict=True)]
    return sum(right) / len(right)


def main() -> None:
    """Train the adapters that are named, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", choices=[*FORMS, []], help="of adapters; all of them")
    parser.add_argument("--packages", type=Path, help="a saved `apt-cache dumpavail`")
    parser.add_argument("--out", type=Path, default=HERE / "adapters")
    parser.add_argument("--rows", type=int, default=12_000, help="packages to learn from")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    parts, base = split(load(args.packages)), HERE / "causal-lm"
    packages = random.Random(0).sample(parts.train, min(args.rows, len(parts.train)))
    for name in args.names or FORMS:
        start, folder = time.monotonic(), args.out / name
        save(train(base, FORMS[name], packages, args.epochs), folder)
        took = time.monotonic() - start
        right = accuracy(base, folder, FORMS[name], sample(parts.held_out))
        print(f"{name}: {right:.1%} of the sample right, trained in {took:.0f} s", flush=True)


if __name__ == "__main__":
    main()
