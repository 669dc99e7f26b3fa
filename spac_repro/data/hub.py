"""The Hugging Face hub: pinned revisions only, and one clear line where it is out of reach."""

from pathlib import Path

from spac_repro.errors import UnfitEnvironmentError

# Weights as safetensors, and what a tokenizer and a configuration are made of; never code, never pickles.
PATTERNS = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja")


def snapshot(name: str, revision: str | None) -> Path:
    """The folder of a model at a revision: from the cache if it is there, else downloaded.

    Raises:
        UnfitEnvironmentError: neither cached nor to be had.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # its retries are many lines; what comes of them is one
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(PATTERNS)))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        raise UnfitEnvironmentError(
            f"the model {name} at revision {revision} is not in the cache and the hub did not give it ({type(error).__name__}); "
            f"where there is a network, run `hf download {name} --revision {revision}`, and share HF_HOME with this machine"
        ) from None
