"""What each engine is started with: its interpreter, its environment, and where its parts lie."""

import ctypes.util
import json
import os
import subprocess
import sys
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.spec import OURS, BenchmarkError, Spec

REPOSITORY = Path(__file__).resolve().parents[2]
HOME = Path("out/benchmarks/peers")
PEERS = ("transformers", "vllm", "llama.cpp")
INSTALL = "benchmarks/peers/install.sh"


class PeerMissingError(BenchmarkError):
    """A peer that is not installed."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start the process of an engine.

    Attributes:
        spec: with what the engine has to know of its own files.
        interpreter: the Python that the engine lives in.
        environment: beside the present one.
    """

    spec: Spec
    interpreter: str
    environment: dict[str, str]

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of `benchmarks.serve`, which is run in REPOSITORY."""
        spec = json.dumps(self.spec.plain())
        return [self.interpreter, "-m", "benchmarks.serve", spec, *arguments]

    def environ(self) -> dict[str, str]:
        """Return the whole environment."""
        return os.environ | {"HF_HUB_OFFLINE": "1", **self.environment}


def prepare(spec: Spec, home: Path) -> Launch:
    """Find an engine under `home`, and make the files that it needs of a checkpoint.

    Raises:
        PeerMissingError: it is not installed there.
        BenchmarkError: it can't be used for this comparison.
    """
    if spec.name in {OURS, "transformers"}:
        return Launch(spec, sys.executable, {})
    if spec.device != "cpu":
        raise BenchmarkError(f"{spec.name} is compared on CPUs only: say --peers transformers")
    if _has_labels(spec.checkpoint):
        raise BenchmarkError(f"{spec.name} is compared as a causal language model only")
    return (_vllm if spec.name == "vllm" else _llama_cpp)(spec, home.resolve() / spec.name)


def _vllm(spec: Spec, home: Path) -> Launch:
    interpreter = _installed(spec, home / "bin" / "python")
    preloaded = [*home.glob("lib/libiomp5.so")]
    malloc = ctypes.util.find_library("tcmalloc_minimal")
    libraries = [*([malloc] if malloc else []), *map(str, preloaded)]
    return Launch(
        spec,
        str(interpreter),
        {
            # What its CPU guide recommends: its threads bound to cores, both libraries first.
            "LD_PRELOAD": ":".join(libraries),
            "VLLM_CPU_OMP_THREADS_BIND": f"0-{spec.threads - 1}",
            "VLLM_CPU_KVCACHE_SPACE": str(spec.setting("kv_gib", 4)),
            # What it compiles is kept, so that only its very first start has to compile.
            "VLLM_CACHE_ROOT": str(home / "cache"),
            "VLLM_NO_USAGE_STATS": "1",
        },
    )


def _llama_cpp(spec: Spec, home: Path) -> Launch:
    server = _installed(spec, home / "bin" / "llama-server")
    version = (home / "VERSION").read_text(encoding="ascii").strip()
    found = {"server": str(server), "gguf": str(_gguf(spec, home)), "version": version}
    return Launch(replace(spec, settings=spec.settings | found), sys.executable, {})


def _gguf(spec: Spec, home: Path) -> Path:
    """Return the checkpoint in llama.cpp's format, made now if it is not there."""
    weights = spec.setting("weights", "bf16")
    if spec.dtype != "bfloat16":
        raise BenchmarkError(f"llama.cpp is compared in bfloat16, not in {spec.dtype}")
    stamp = (spec.checkpoint / "config.json").stat().st_mtime_ns
    key = zlib.crc32(f"{spec.checkpoint.resolve()} {stamp}".encode())
    stem = home / "models" / f"{spec.checkpoint.name}-{key:08x}"
    plain = stem.with_name(f"{stem.name}-bf16.gguf")
    if not plain.exists():
        plain.parent.mkdir(parents=True, exist_ok=True)
        script = Path(__file__).with_name("gguf_checkpoint.py")
        _make(plain, home / "venv" / "bin" / "python", script, spec.checkpoint)
    if weights == "bf16":
        return plain
    quantized = stem.with_name(f"{stem.name}-{weights}.gguf")
    if not quantized.exists():
        _make(quantized, home / "bin" / "llama-quantize", plain, last=(weights,))
    return quantized


def _make(target: Path, *command: Path, last: tuple[str, ...] = ()) -> None:
    """Let a command write `target`, which is there only when it is complete."""
    partial = target.with_name(f".{target.name}")
    done = subprocess.run([*command, partial, *last], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise BenchmarkError(f"{target.name} could not be made: {lines[-1] if lines else '?'}")
    partial.rename(target)


def _installed(spec: Spec, program: Path) -> Path:
    if not program.exists():
        raise PeerMissingError(f"{spec.name} is not installed ({program}): run {INSTALL}")
    return program


def _has_labels(checkpoint: Path) -> bool:
    try:
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise BenchmarkError(f"{checkpoint}: no checkpoint is there ({error.strerror})") from None
    return "CausalLM" not in config["architectures"][0]
