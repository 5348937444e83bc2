"""What the repository promises: names, layers, documents and commands that hold together."""

import ast
import importlib
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
import typer
import yaml

import model
import pipelines
from cluster.commands import app
from pipelines import JobSpec

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


# What others may import. A name that goes, or changes its meaning, is a new major version.
PUBLIC = {
    model: """
        ChatError CheckpointError ClassificationOutput Classify Completion ConfigError
        ConstraintError Embed EmbeddingOutput Engine EngineConfig EngineDeadError EngineStats Entity
        GemmarayError Generate GenerationOutput HiddenStatesOutput LabelScore LogprobsOutput
        LongTexts MemoryReport ParameterError PromptError PromptLogprobs RequestOutput RequestUpdate
        SamplingParams ScoreLabels TagTokens TaggingOutput Task TaskError TokenDelta TokenLogprob
        TokenizerError
        """,
    pipelines: """
        ErrorCount InputError JobError JobInterrupted JobReport JobSpec PlanMismatch Progress
        StorageError retry_failed run_job
        """,
}


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], cwd=ROOT, capture_output=True, text=True, check=False
    )


def blocks(*languages: str) -> list[tuple[Path, str]]:
    """The fenced blocks of these languages in all documents."""
    return [
        (path, text)
        for path in DOCUMENTS
        for language, text in FENCE.findall(path.read_text(encoding="utf-8"))
        if language in languages
    ]


def commands(program: str) -> list[tuple[Path, list[str]]]:
    """The words of each command line of a program in the documents' shell blocks."""
    lines = (
        (path, line.strip().removeprefix("$ "))
        for path, text in blocks("", "sh", "shell", "bash", "console")
        for line in text.replace("\\\n", " ").splitlines()
    )
    found = []
    for path, line in lines:
        for part in re.split(r"\s(?:\||&&|;)\s", line):
            # Behind VARIABLE=value; up to a redirection.
            match = re.match(rf"(?:\w+=\S* )*(?:\S*/)?{program}(?=\s|$)(.*?)(?:\s[<>].*)?$", part)
            if match:
                found.append((path, shlex.split(match[1], comments=True)))
    return found


def parse(words: list[str]) -> None:
    """Parse a gemmaray command line as the command would, and do nothing."""
    group = typer.main.get_command(app)
    with group.make_context("gemmaray", list(words)) as context:
        rest = [*context._protected_args, *context.args]
        name, command, arguments = group.resolve_command(context, rest)
        command.make_context(name, arguments, parent=context)


def test_imports_go_down_the_floors_only() -> None:
    finished = run(BIN / "lint-imports")
    assert finished.returncode == 0, finished.stdout


@pytest.mark.parametrize(("package", "names"), PUBLIC.items(), ids=lambda item: "")
def test_public_names_are_those_promised(package: ModuleType, names: str) -> None:
    assert sorted(package.__all__) == sorted(names.split())
    assert all(hasattr(package, name) for name in names.split())


def test_every_package_is_shipped_typed_and_explained() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    packages = wheel["targets"]["wheel"]["packages"]
    assert sorted(packages) == ["actors", "cluster", "model", "pipelines"]
    for name in packages:
        assert (ROOT / name / "py.typed").exists()
        assert importlib.import_module(name).__doc__


def test_links_between_documents_lead_somewhere() -> None:
    broken = [
        f"{path.relative_to(ROOT)}: {target}"
        for path in DOCUMENTS
        for target in LINK.findall(FENCE.sub("", path.read_text(encoding="utf-8")))
        if not re.match(r"[a-z]+:|#", target)
        and not (path.parent / target.partition("#")[0]).exists()
    ]
    assert not broken


def test_commands_in_documents_parse() -> None:
    for path, words in commands("gemmaray"):
        if path.name == "cli.md":
            continue  # written from the command itself, with placeholders
        try:
            parse(words)
        except typer.Exit:
            pass  # --help and --version end here
        except typer.TyperException as error:
            pytest.fail(f"{path.name}: gemmaray {shlex.join(words)}: {error.format_message()}")


def test_make_targets_in_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path, words in commands("make"):
        named = {word for word in words if "=" not in word and not word.startswith("-")}
        assert named <= targets, f"{path.name}: make {shlex.join(words)}"


def test_python_in_documents_is_python_and_imports_what_exists() -> None:
    for path, text in blocks("python", "py"):
        for node in ast.walk(ast.parse(text, str(path))):
            if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                module = importlib.import_module(node.module)
                missing = [name.name for name in node.names if not hasattr(module, name.name)]
                assert not missing, f"{path.name}: from {node.module} import {missing}"


def test_python_that_uses_the_demo_model_runs() -> None:
    for path, text in blocks("python", "py"):
        if "examples/" in text:
            finished = run(sys.executable, "-c", text)
            assert finished.returncode == 0, f"{path.name}: {finished.stderr}"


def test_job_files_in_documents_are_jobs() -> None:
    for path, text in blocks("yaml"):
        values = yaml.safe_load(text)
        if isinstance(values, dict) and "tasks" in values:
            assert JobSpec(**values).tasks.names, path.name


def test_the_command_reference_is_current(tmp_path: Path) -> None:
    if f"typer=={version('typer')}" not in (ROOT / "constraints.txt").read_text():
        pytest.skip("another version of Typer words its help differently")
    fresh = tmp_path / "cli.md"
    docs = ("utils", "docs", "--name", "gemmaray", "--output", fresh)
    assert run(BIN / "typer", "cluster.commands", *docs).returncode == 0
    assert fresh.read_text() == (ROOT / "docs" / "cli.md").read_text(), "run `make docs`"


def test_constraints_pin_exact_versions_of_public_packages() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    odd = [line for line in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", line)]
    assert not odd
    names = [re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower() for line in pins]
    assert len(set(names)) == len(names)
    assert "gemmaray" not in names


def test_constraints_cover_what_is_required() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    pinned = {
        re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    names = {re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", item)[0]).lower() for item in required}
    assert names <= pinned


def test_each_task_has_an_example_whose_inputs_are_there() -> None:
    tasks = set()
    for path in sorted((ROOT / "examples").glob("*.yaml")):
        text = path.read_text()
        assert f"gemmaray run examples/{path.name}" in text
        job = yaml.safe_load(text)
        assert (ROOT / job["input"]).is_file()
        assert (ROOT / job["model"] / "config.json").is_file()
        assert job["output"].startswith("out/")
        tasks |= {task if isinstance(task, str) else next(iter(task)) for task in job["tasks"]}
    assert tasks == {"generate", "score_labels", "classify", "tag_tokens", "embed"}


def test_the_tagger_fits_the_demo_model() -> None:
    """Its backbone is the demo model's file, so both must be trained together."""
    tagger, demo = ROOT / "examples" / "tagger", ROOT / "examples" / "demo-model" / "causal-lm"
    assert (tagger / "backbone.safetensors").resolve() == (demo / "model.safetensors").resolve()
    ours, theirs = (
        yaml.safe_load((folder / "config.json").read_text()) for folder in (tagger, demo)
    )
    own = {"architectures", "id2label", "label2id"}
    assert {k: v for k, v in ours.items() if k not in own} == {
        k: v for k, v in theirs.items() if k not in own
    }


def test_the_parity_table_names_tests_that_exist() -> None:
    defined = {
        name
        for path in (ROOT / "tests" / "model").rglob("test_*.py")
        for name in [path.name, *re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8"))]
    }
    named = re.findall(
        r"`(test_[\w.]+)`", (ROOT / "docs" / "parity.md").read_text(encoding="utf-8")
    )
    assert len(named) > 20
    assert set(named) <= defined
