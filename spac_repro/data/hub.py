"""The Hugging Face hub: pinned revisions only, and one clear message if it cannot be reached."""

from pathlib import Path

from spac_repro.errors import UnfitEnvironmentError

# Safetensors weights, tokenizer and configuration files; never code, never pickles.
ALLOW_PATTERNS = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja")


def snapshot(name: str, revision: str | None) -> Path:
    """Return the folder of a model at a revision, from the cache or downloaded.

    Args:
        name: OWNER/NAME on the hub.
        revision: a commit hash.

    Raises:
        UnfitEnvironmentError: the model is not cached and cannot be downloaded.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # retries print many lines; the error below is one
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(ALLOW_PATTERNS)))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        raise UnfitEnvironmentError(
            f"the model {name} at revision {revision} is not cached and cannot be downloaded ({type(error).__name__}); "
            f"on a machine with a network, run `hf download {name} --revision {revision}`, and share HF_HOME with this machine"
        ) from None
