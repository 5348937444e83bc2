"""From what a user calls a checkpoint to a local folder that holds its files."""

import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from .errors import CheckpointError, ParameterError
from .weight_files import weight_paths

# What is fetched of a hub repository or an S3 prefix: never pickles, code or other formats.
DESCRIPTION = ("*.json", "tokenizer.model", "chat_template.jinja")
PATTERNS = ("*.safetensors", *DESCRIPTION)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def locate(checkpoint: str, revision: str | None = None, *, weights: bool = True) -> Path:
    """Find a checkpoint, fetching it first where it is not on this machine.

    Args:
        checkpoint: a local folder (also as `file:///...`), a hub id `org/name`, which is kept in
            the hub's own cache and read with HF_TOKEN, or `s3://bucket/prefix`, which is kept in
            $GEMMARAY_CACHE, else ~/.cache/gemmaray. A folder goes before a hub id.
        revision: the branch, tag or commit of a hub id.
        weights: False fetches and asks for no weights, only what describes the model and its text.

    Returns:
        The folder; it has a config.json and, with `weights`, all safetensors files that its index
        names.

    Raises:
        CheckpointError: there is no such checkpoint, it can't be fetched, or it is of a kind that
            is not read.
        ParameterError: a revision is given for something that has none.
    """
    found = _locate(checkpoint, revision, PATTERNS if weights else DESCRIPTION)
    return _checked(found, weights=weights)


def locate_adapter(adapter: str) -> Path:
    """Find a LoRA adapter, fetching it first where it is not on this machine.

    Args:
        adapter: as a checkpoint; the branch, tag or commit of a hub id stands behind an `@`.

    Returns:
        The folder; it has an adapter_config.json.

    Raises:
        CheckpointError: there is no such adapter, or it can't be fetched.
    """
    name: str
    revision: str | None
    name, _, revision = adapter.partition("@")
    pinned = revision and _HUB_ID.fullmatch(name) and not Path(adapter).exists()
    if not pinned:
        name, revision = adapter, None
    folder = _locate(name, revision, PATTERNS)
    if not (folder / "adapter_config.json").is_file():
        raise CheckpointError(
            f"{folder} has no adapter_config.json: give the folder of an adapter as PEFT saves it"
        )
    return folder


def _locate(checkpoint: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """Do what `locate` does, whatever the folder holds."""
    _refuse_odd_names(checkpoint)
    scheme, separator, rest = checkpoint.partition("://")
    try:
        local = Path(rest if separator else checkpoint).expanduser()
        on_disk = scheme == "file" or (not separator and local.exists())
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{checkpoint} can't be read: {error}") from None
    if not on_disk and not separator and _HUB_ID.fullmatch(checkpoint):
        return _from_hub(checkpoint, revision, patterns)
    if revision is not None:
        raise ParameterError(f"revision is for hub ids only, and {checkpoint!r} is not one")
    if scheme == "s3" and separator:
        # Not at the top: its client takes 0.2 s to import, and most checkpoints don't need it.
        from .s3_cache import fetch_folder  # noqa: PLC0415

        return fetch_folder(checkpoint, patterns)
    if on_disk:
        return local
    raise CheckpointError(
        f"{checkpoint!r} is no folder here, no hub id (org/name) and no s3:// URI"
    )


def hub_commit(folder: Path) -> str | None:
    """Give the commit that a folder of the hub's cache is a snapshot of; None for other folders."""
    is_snapshot = folder.parent.name == "snapshots" and re.fullmatch("[0-9a-f]{40}", folder.name)
    return folder.name if is_snapshot else None


def _refuse_odd_names(checkpoint: str) -> None:
    """Let only plain folders, hub ids and s3 through: fsspec's chained URLs reach much further."""
    scheme, separator, _ = checkpoint.partition("://")
    if not checkpoint or "::" in checkpoint or (separator and scheme not in {"file", "s3"}):
        raise CheckpointError(
            f"{checkpoint!r} can't name a checkpoint; "
            "give a folder, a hub id (org/name) or s3://bucket/prefix"
        )
    if ".." in re.split(r"[/\\]", checkpoint):
        raise CheckpointError(f"{checkpoint!r} must not contain '..'; give an absolute path")


def _from_hub(repo: str, revision: str | None, patterns: Sequence[str]) -> Path:
    at = f"{repo} at revision {revision}" if revision else repo
    try:
        return Path(
            snapshot_download(
                repo, revision=revision, allow_patterns=list(patterns), ignore_patterns=["*/*"]
            )
        )
    except GatedRepoError:
        raise CheckpointError(
            f"{repo} is gated: accept its licence at https://huggingface.co/{repo} and set HF_TOKEN"
        ) from None
    except RepositoryNotFoundError:
        raise CheckpointError(
            f"{repo} is neither a folder here nor a model on the hub that HF_TOKEN gives access to"
        ) from None
    except RevisionNotFoundError:
        raise CheckpointError(f"{repo} has no revision {revision!r} on the hub") from None
    except LocalEntryNotFoundError:
        raise CheckpointError(
            f"{at} is neither a folder here nor wholly in the hub's cache, and the hub can't be "
            "reached (is HF_HUB_OFFLINE set?)"
        ) from None
    except Exception as error:  # noqa: BLE001 -- errors of the HTTP and xet clients share no base
        detail = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{at} can't be fetched from the hub: {detail}") from None


def _checked(folder: Path, *, weights: bool) -> Path:
    """Return the folder if it holds what a checkpoint needs."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; give the one that holds config.json")
    if weights:
        weight_paths(folder)
    if not (folder / "config.json").exists():
        raise CheckpointError(f"{folder} has no config.json")
    return folder
