"""What a job reads and writes: a checkpoint, and an output."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from model.config import ModelConfig
from model.errors import GemmarayError
from model.locate import locate
from model.tokenizer import load_tokenizer
from model.weight_files import read_weight_map, weight_paths
from pipelines.locations import parse_location
from pipelines.s3 import S3Settings
from pipelines.storage import open_store, probe

from .finding import Finding, gib, ok, problem

SAME_MODEL = "take it from where the weights are from"


def examine_model(checkpoint: str, revision: str | None) -> Iterator[Finding]:
    """Check a checkpoint's files against each other; a hub id is fetched first."""
    try:
        folder = locate(checkpoint, revision)
        config = ModelConfig.from_folder(folder)
        tensors = len(read_weight_map(folder))
        size = sum(path.stat().st_size for path in weight_paths(folder))
    except (GemmarayError, OSError) as error:
        yield problem("model", str(error), "fetch the checkpoint again, or name another")
        return
    kind = config.architecture.replace("_", " ")
    yield ok("model", f"{folder}: {kind}, {tensors} tensors, {gib(size)}, {config.dtype}")
    yield check_tokenizer(folder, config.vocab_size)


def check_tokenizer(folder: Path, rows: int) -> Finding:
    """Hold a tokenizer against the rows of its model's embedding."""
    try:
        tokenizer = load_tokenizer(folder)
    except GemmarayError as error:
        return problem("tokenizer", str(error), SAME_MODEL)
    if tokenizer is None:
        return problem("tokenizer", f"{folder} has none", SAME_MODEL)
    if tokenizer.vocab_size > rows:
        text = f"has {tokenizer.vocab_size:,} tokens, the model {rows:,}"
        return problem("tokenizer", text, SAME_MODEL)
    template = "with" if tokenizer.has_chat_template else "without"
    return ok("tokenizer", f"{tokenizer.vocab_size:,} tokens, {template} a chat template")


def examine_output(url: str, s3: S3Settings) -> Finding:
    """Write a file to an output twice, and see that the first stays; nothing is left behind."""
    try:
        with ExitStack() as stack:
            store = open_store(_place(url, stack), s3)
            probe(store)
    except (GemmarayError, OSError) as error:
        fix = "look at the credentials, the bucket's policy and --s3-endpoint, or the folder's mode"
        return problem("output", str(error), fix)
    return ok("output", f"{url} can be written, and keeps a name for its first writer")


def _place(url: str, stack: ExitStack) -> str:
    """Give a place to try: for a local folder one beside it or in it, which goes afterwards."""
    location = parse_location(url)
    if location.scheme != "file":
        return str(location)
    folder = Path(location.path)
    there = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    return stack.enter_context(tempfile.TemporaryDirectory(dir=there, prefix=".gemmaray-"))
