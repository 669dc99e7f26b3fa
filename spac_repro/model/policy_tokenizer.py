"""The tokenizer of a recipe's policy without its weights, from what is on this machine; and the file of a packaged model."""

from importlib import metadata
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from spac_repro.data import hub, tokenizers
from spac_repro.errors import UnfitEnvironmentError, UserError
from spac_repro.model import folder_identity, generation_config, loading, trusted_folder
from spac_repro.policy_settings import PolicySettings


def load(settings: PolicySettings) -> PreTrainedTokenizerBase:
    """Load the tokenizer of the policy that a recipe names. Nothing is downloaded.

    Raises:
        UserError: the model folder is refused, or the tokenizer is damaged.
        UnfitEnvironmentError: the package is not installed in the recipe's version, or the model is not in the hub's cache.
    """
    if settings.source == "random":
        return tokenizers.world_tokenizer()
    if settings.source == "package":
        file = gguf_file(settings)
        packaged: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        return packaged
    path = folder(settings, local_files_only=True)
    trusted_folder.check_folder(path)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # every library that reads a file reports damage with exceptions of its own
        raise loading.unreadable_tokenizer(path, error) from None
    loading.check_tokenizer(path, tokenizer)
    return tokenizer


def model_stop_token_ids(settings: PolicySettings) -> tuple[int, ...]:
    """Return the end-of-sequence tokens of the model that a recipe names; of a packaged or random one, the tokenizer's is the only.

    Raises:
        UserError: generation_config.json is damaged.
        UnfitEnvironmentError: the model is not in the hub's cache.
    """
    if settings.source not in ("hub", "folder"):
        return ()
    return generation_config.stop_token_ids_in(folder(settings, local_files_only=True))


def folder(settings: PolicySettings, *, local_files_only: bool = False) -> Path:
    """Return the folder of a policy of the hub, from the cache or downloaded, or of a folder of the user's own.

    Raises:
        UserError: the folder does not have the hash that the recipe names, or the name is not one of the hub.
        UnfitEnvironmentError: the model is not cached, and cannot be or is not to be downloaded.
    """
    if settings.source == "folder":
        folder_identity.check(Path(settings.name), settings.revision)
        return Path(settings.name)
    return hub.snapshot(settings.name, settings.revision, local_files_only=local_files_only)


def gguf_file(settings: PolicySettings) -> Path:
    """Return the GGUF file of a policy that a Python package ships.

    Raises:
        UserError: the package does not hold exactly one.
        UnfitEnvironmentError: the package is not installed in the recipe's version.
    """
    versions = {}
    for package in (settings.name, "gguf"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            raise UnfitEnvironmentError(
                f"the model's package {package} is not installed; run `make smollm2`, or pip install 'spac-repro[smollm2]'"
            ) from None
    if versions[settings.name] != settings.revision:
        raise UnfitEnvironmentError(
            f"the package {settings.name} has version {versions[settings.name]}, but the recipe needs {settings.revision}: "
            f"pip install {settings.name}=={settings.revision}"
        )
    files = [file for file in metadata.files(settings.name) or [] if file.suffix == ".gguf"]
    if len(files) != 1:
        raise UserError(
            f"the package {settings.name} holds {len(files)} GGUF files, but exactly one is needed; name another in policy.name"
        )
    return Path(str(files[0].locate()))
