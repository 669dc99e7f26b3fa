"""The base in four bits (NormalFloat4, Dettmers et al. 2023, arXiv 2305.14314), by bitsandbytes: on a GPU only.

Run on one GPU, cut down (bench/RESULTS.md); never at its size.
"""

from typing import Any

import torch
from transformers import PreTrainedModel

from spac_repro.errors import UnfitEnvironmentError
from spac_repro.runs.environment import installed_version


def check() -> None:
    """Check that this machine can hold a base in four bits.

    Raises:
        UnfitEnvironmentError: bitsandbytes or a GPU is missing.
    """
    if installed_version("bitsandbytes") is None:
        raise UnfitEnvironmentError(
            "policy.adapter.base_bits is 4, and bitsandbytes is not installed; install the extra `qlora`, or set base_bits to null"
        )
    if not torch.cuda.is_available():
        raise UnfitEnvironmentError(
            "policy.adapter.base_bits is 4, and no GPU is visible; use a machine with a GPU, or set base_bits to null"
        )


def loading_options() -> dict[str, Any]:
    """Return what `from_pretrained` needs to load linear layers in four bits, with quantized constants, onto this process's GPU."""
    from transformers import BitsAndBytesConfig

    check()
    config = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {"quantization_config": config, "device_map": {"": torch.cuda.current_device()}}


def dequantized(model: PreTrainedModel) -> PreTrainedModel:
    """Return the model that four bits compute, in bfloat16: an adapter is trained on it, and not on what was quantized."""
    return model.dequantize()  # type: ignore[no-any-return,no-untyped-call]
