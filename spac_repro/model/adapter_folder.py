"""Adapter folders: checked before they are read, since they may come from anybody, and put on the base that they belong to."""

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import safe_open
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from spac_repro.documents import strict_json
from spac_repro.documents.errors import one_line
from spac_repro.errors import UserError
from spac_repro.model import adapters, loading, policy, quantized, trusted_folder
from spac_repro.model.adapters import CONFIG_FILE, METADATA_KEY, WEIGHTS_FILE
from spac_repro.policy_settings import AdapterSettings

# Keys of adapter_config.json that are read here, or that say nothing about the computation; every other one has PEFT's default.
READ = {
    "peft_type",
    "r",
    "lora_alpha",
    "target_modules",
    "lora_dropout",
    "base_model_name_or_path",
    "revision",
    "init_lora_weights",
}
WITHOUT_EFFECT = {"task_type", "inference_mode", "auto_mapping", "peft_version", "fan_in_fan_out"}
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class AdapterFolder:
    """What an adapter folder says of itself."""

    path: Path
    settings: AdapterSettings
    base: str | None  # the name of a repository, or a folder
    revision: str | None
    base_sha256: str | None  # None: not written by this package, so any base of the right shapes is accepted


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and not a whole model."""
    return (folder / CONFIG_FILE).is_file()


def read(folder: Path) -> AdapterFolder:
    """Read and check what an adapter folder says of itself.

    Raises:
        UserError: it has weights as pickles only, dropout, or anything else than a plain LoRA adapter; or a file is damaged.
    """
    trusted_folder.check_links(folder)
    trusted_folder.check_weights(folder)
    if not (folder / WEIGHTS_FILE).is_file():
        raise UserError(f"{folder}: no {WEIGHTS_FILE} beside {CONFIG_FILE}; save the adapter again with PEFT")
    config = strict_json.read(folder / CONFIG_FILE, dict)
    _check_plain(folder, config)
    identity = _identity(folder)
    try:
        settings = AdapterSettings(
            rank=config.get("r", 8),
            alpha=config.get("lora_alpha", 8),
            targets=config.get("target_modules"),
            base_bits=identity.get("base_bits"),
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{folder / CONFIG_FILE}: {one_line(where, 40)}: {one_line(first['msg'], 100)}; save the adapter again with PEFT"
        ) from None
    base, revision = (_text_or_none(folder, config, key) for key in ("base_model_name_or_path", "revision"))
    return AdapterFolder(folder, settings, base, revision, identity.get("base_sha256"))


def _check_plain(folder: Path, config: dict[str, Any]) -> None:
    from peft import LoraConfig

    file = folder / CONFIG_FILE
    if config.get("peft_type") != "LORA":
        raise UserError(f"{file}: peft_type is {one_line(repr(config.get('peft_type')), 40)}; only LORA is supported")
    if config.get("lora_dropout"):
        raise UserError(
            f"{file}: lora_dropout is {one_line(repr(config['lora_dropout']), 40)}; policies are trained without dropout "
            "(docs/method.md). To evaluate the adapter as it is, set lora_dropout to 0: only training draws from it"
        )
    if config.get("init_lora_weights", True) not in (True, False, "gaussian"):
        raise UserError(
            f"{file}: init_lora_weights is {one_line(repr(config['init_lora_weights']), 40)}, which changes the base; "
            "convert the adapter with PEFT, or merge it"
        )
    usual = LoraConfig().to_dict()  # type: ignore[no-untyped-call]
    for key, value in config.items():
        if key not in READ | WITHOUT_EFFECT and value and value != usual.get(key):
            shown = f"{one_line(key, 40)} is {one_line(repr(value), 40)}"
            raise UserError(
                f"{file}: {shown}; only plain LoRA is supported: merge the adapter with PEFT, and name the merged model"
            )


def _identity(folder: Path) -> dict[str, Any]:
    """What the file of weights says about the base; nothing if another program wrote it."""
    file = folder / WEIGHTS_FILE
    try:
        with safe_open(file, "pt") as stream:
            written = (stream.metadata() or {}).get(METADATA_KEY)
    except Exception as error:  # safetensors reports damage with exceptions of its own
        raise loading.unreadable(folder, error) from None
    return strict_json.parse(written, f"{file}, its metadata", dict) if written else {}


def _text_or_none(folder: Path, config: dict[str, Any], key: str) -> str | None:
    value = config.get(key)
    if value is not None and not isinstance(value, str):
        raise UserError(f"{folder / CONFIG_FILE}: {key} must be a text; save the adapter again with PEFT")
    return value


def base_folder(adapter: AdapterFolder) -> Path:
    """Find the base of an adapter: a folder, as seen from the adapter's or from here, or a commit of a repository on the hub.

    Raises:
        UserError: it is named by no folder and no commit.
        UnfitEnvironmentError: it is not cached and cannot be downloaded.
    """
    name = adapter.base
    if name:
        for folder in (adapter.path / name, Path(name)):
            with suppress(OSError):  # a name that is too long
                if folder.is_dir():
                    return folder
    if name and adapter.revision and COMMIT.fullmatch(adapter.revision):
        from spac_repro.data import hub

        return hub.snapshot(name, adapter.revision)
    told = f"its base {one_line(repr(name), 80)} is no folder here, and no commit is named" if name else "it names no base"
    raise UserError(f"{adapter.path}: {told}; name the folder of the base with --base")


def attach(model: PreTrainedModel, adapter: AdapterFolder, *, base_sha256: str, base: Path) -> PreTrainedModel:
    """Put the adapter of a folder into its base; return the model.

    Args:
        model: the base.
        adapter: what `read` returned.
        base_sha256: the hash of the base's weights.
        base: the base's folder, for errors.

    Raises:
        UserError: the adapter was trained on another base, or its weights are damaged.
    """
    from safetensors.torch import load_file

    if adapter.base_sha256 not in (None, base_sha256):
        raise UserError(
            f"{adapter.path}: the adapter was trained on the base with the weights {str(adapter.base_sha256)[:12]}…, and those of "
            f"{base} are {base_sha256[:12]}…; name its own base with --base"
        )
    adapters.add(model, adapter.settings, base_sha256=base_sha256)
    try:
        saved = load_file(adapter.path / WEIGHTS_FILE)
    except Exception as error:
        raise loading.unreadable(adapter.path, error) from None
    adapters.fill(model, saved, adapter.path)
    return model


def load(folder: Path, *, base: Path | None = None, dequantize: bool = False) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load an adapter folder with its base, in the base's own dtype.

    Args:
        folder: the adapter folder.
        base: the base's folder; None: where the adapter says that it is.
        dequantize: return a base of four bits in bfloat16, so that the adapter can be merged into it.

    Returns:
        The model and the base's tokenizer.

    Raises:
        UserError: a folder is refused, or the adapter was trained on another base.
        UnfitEnvironmentError: the base has four bits, and bitsandbytes or a GPU is missing.
    """
    adapter = read(folder)
    if adapter.settings.base_bits:
        quantized.check()  # before the base is read
    base = base or base_folder(adapter)
    model, tokenizer = policy.load(base)
    sha256 = policy.weights_sha256(model)
    if adapter.settings.base_bits:
        model, _ = policy.load(base, base_bits=adapter.settings.base_bits)
        model = quantized.dequantized(model) if dequantize else model
    return attach(model, adapter, base_sha256=sha256, base=base), tokenizer
