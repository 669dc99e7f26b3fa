"""The Hugging Face hub: pinned revisions only, and one clear message if it cannot be reached."""

import re
from pathlib import Path

from spac_repro.documents.errors import one_line
from spac_repro.errors import UnfitEnvironmentError, UserError

# Safetensors weights, tokenizer and configuration files; never code, never pickles.
ALLOW_PATTERNS = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja")
MODEL_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)


def snapshot(name: str, revision: str | None, *, local_files_only: bool = False) -> Path:
    """Return the folder of a model at a revision, from the cache or downloaded.

    Args:
        name: OWNER/NAME on the hub.
        revision: a commit hash.
        local_files_only: download nothing.

    Raises:
        UserError: the name is not one of the hub.
        UnfitEnvironmentError: the model is not cached and cannot be downloaded.
    """
    if not MODEL_NAME.fullmatch(name):
        where = "a local folder" if Path(name).expanduser().exists() else "not a name on the hub"
        raise UserError(
            f"policy.name {one_line(name, 100)!r} is {where}; name a folder with --policy FOLDER, or a model of the hub with "
            "--policy OWNER/NAME@COMMIT"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # retries print many lines; the error below is one
    try:
        patterns = list(ALLOW_PATTERNS)
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns, local_files_only=local_files_only))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        problem = "nothing is downloaded here" if local_files_only else "cannot be downloaded"
        raise UnfitEnvironmentError(
            f"the model {name} at revision {revision} is not cached and {problem} ({type(error).__name__}); "
            f"on a machine with a network, run `hf download {name} --revision {revision}`, and share HF_HOME with this machine"
        ) from None
