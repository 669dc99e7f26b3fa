"""The policy: a causal language model as a distribution over responses; created, loaded, saved and hashed here."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from spac_repro.data import tokenizers
from spac_repro.documents import strict_json
from spac_repro.documents.errors import one_line
from spac_repro.errors import UnfitEnvironmentError, UserError
from spac_repro.model import (
    adapters,
    architectures,
    dropout,
    generation_config,
    loading,
    packed_attention,
    policy_tokenizer,
    quantized,
    trusted_folder,
)
from spac_repro.model.hashing import tensors_sha256
from spac_repro.model.logprobs import capped, token_logprobs
from spac_repro.model.packing import PackedSequence
from spac_repro.policy_settings import ArchitectureSettings, PolicySettings

# Packed attention needs no mask; this one only keeps transformers from making one.
NO_MASK = torch.ones(1, 1, 1, 1, dtype=torch.bool)


class Policy(nn.Module):
    """π(y|x): a causal language model whose `forward` returns log π(y|x) of whole responses.

    Args:
        model: the language model.
        fused: take Liger's kernel for the output layer (`logprobs.liger_serves`).
    """

    def __init__(self, model: PreTrainedModel, *, fused: bool = False) -> None:
        super().__init__()
        self.model = model
        self.fused = fused

    def forward(self, packed: PackedSequence) -> Tensor:
        """Compute log π(y|x) of every response: the sum over its counted tokens, given its prompt.

        Only hidden states that predict a counted token reach the output layer, so memory does not grow with vocabulary × length.

        Returns:
            [responses], in nats, fp32.
        """
        if not supports_packing(self.model):
            return self._forward_unpacked(packed)
        logprobs = token_logprobs(
            self._predicting_states(packed),
            self.model.get_output_embeddings(),  # type: ignore[no-untyped-call]
            packed.targets,
            softcap=architectures.final_softcap(self.model.config),
            fused=self.fused,
        )
        return logprobs.new_zeros(packed.num_responses).index_add(0, packed.response_numbers, logprobs)

    def logits(self, packed: PackedSequence) -> Tensor:
        """Compute the logits that predict each counted response token, [S, vocabulary] in fp32."""
        logits: Tensor = self.model.get_output_embeddings()(self._predicting_states(packed))  # type: ignore[no-untyped-call]
        return capped(logits.float(), architectures.final_softcap(self.model.config))

    def _predicting_states(self, packed: PackedSequence) -> Tensor:
        """The last hidden states that predict the counted response tokens, [S, width]."""
        output = self.model.base_model(
            input_ids=packed.input_ids,
            position_ids=packed.position_ids,
            attention_mask=NO_MASK.to(packed.input_ids.device),
            layout=packed.layout,
            use_cache=False,
        )
        hidden: Tensor = output.last_hidden_state[0]
        return hidden.index_select(0, packed.logit_index)

    def _forward_unpacked(self, packed: PackedSequence) -> Tensor:
        """`forward` for any causal language model: each response with its own copy of the prompt, with all logits."""
        values = []
        for response in range(packed.num_responses):
            index, logit_index, targets = packed.unpack(response)
            logits = self.model(input_ids=packed.input_ids[:, index], use_cache=False).logits[0, logit_index].float()
            values.append(-cross_entropy(logits, targets, reduction="sum"))
        return torch.stack(values)


def supports_packing(model: PreTrainedModel) -> bool:
    """Whether a prompt is computed once for all of its responses; otherwise it is computed once for each: slower, equally exact."""
    return str(model.config._attn_implementation) == packed_attention.ATTENTION  # transformers has no public name for it


def prepare(model: PreTrainedModel, attention: str) -> PreTrainedModel:
    """Set dropout to zero, and use packed attention if packing is exact for the architecture; return the model."""
    return use_packed_attention(dropout.disable(model), attention)


def use_packed_attention(model: PreTrainedModel, attention: str) -> PreTrainedModel:
    """Switch a model to packed attention, if it is to have sdpa and packing is exact for its architecture; return the model."""
    if attention == "sdpa" and architectures.packs_exactly(model.config):
        model.set_attn_implementation(packed_attention.ATTENTION)
    return model


TokenizerCheck = Callable[[PreTrainedTokenizerBase], object]


def _accept(tokenizer: PreTrainedTokenizerBase) -> None:
    """Check nothing."""


def create_initial(
    settings: PolicySettings, *, seed: int, check_tokenizer: TokenizerCheck = _accept
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Create the policy that a recipe names, before any training.

    Args:
        settings: the recipe's block `policy`.
        seed: of random weights; a pretrained model ignores it.
        check_tokenizer: see `load`.

    Returns:
        The model and its tokenizer.

    Raises:
        UserError: the model folder is refused (`check_folder`) or is another than the recipe's, or the package does not hold
            exactly one GGUF file.
        UnfitEnvironmentError: the package is not installed in the recipe's version, or the hub cannot be reached.
    """
    if settings.source == "random":
        return _random_weights(settings, seed)
    if settings.source == "package":
        return _from_package(settings)
    return load(policy_tokenizer.folder(settings), settings, check_tokenizer=check_tokenizer)


def _random_weights(settings: PolicySettings, seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    shape = settings.architecture
    assert shape is not None  # the recipe's own check
    tokenizer = tokenizers.world_tokenizer()
    config = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_hidden_layers,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_key_value_heads,
        sliding_window=shape.sliding_window,
        max_position_embeddings=shape.max_position_embeddings,
        **tokenizers.special_token_ids(tokenizer),
        attn_implementation=settings.attn_implementation,  # type: ignore[call-arg]  # taken by every configuration
        dtype=settings.dtype,
    )
    _check_memory(shape, bytes_per_weight=2 if settings.dtype == "bfloat16" else 4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MistralForCausalLM(config).to(getattr(torch, settings.dtype))
    return prepare(model, settings.attn_implementation), tokenizer


def _check_memory(shape: ArchitectureSettings, bytes_per_weight: int) -> None:
    """Refuse random weights that do not fit this machine's memory; Linux would end the process without a word.

    Raises:
        UnfitEnvironmentError: the layers alone are larger: queries and outputs of attention, and the three matrices of the MLP.
    """
    width = shape.hidden_size
    needed = shape.num_hidden_layers * (2 * width**2 + 3 * width * shape.intermediate_size) * bytes_per_weight
    memory = psutil.virtual_memory().total
    if needed > memory:
        raise UnfitEnvironmentError(
            f"policy.architecture: the weights take {needed / 1e9:.0f} GB or more, and this machine has {memory / 1e9:.0f} GB; "
            "choose a smaller architecture"
        )


def _from_package(settings: PolicySettings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model that a Python package ships as one GGUF file, dequantized to the recipe's dtype."""
    from transformers import GgufConfig

    file = policy_tokenizer.gguf_file(settings)
    with _no_progress_bars():
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            file.parent,
            output_loading_info=True,
            gguf_file=file.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=settings.dtype,
            attn_implementation=settings.attn_implementation,
        )
    model, info = loaded
    loading.check_loading_info(file, info)
    loading.check_finite_weights(file, model)
    return prepare(model, settings.attn_implementation), tokenizer


def load(
    folder: Path,
    settings: PolicySettings | None = None,
    *,
    base_bits: int | None = None,
    check_tokenizer: TokenizerCheck = _accept,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a policy from a Hugging Face model folder: safetensors only, never code from the folder.

    Args:
        folder: the model folder.
        settings: dtype and attention; None: the folder's own dtype and transformers' default attention.
        base_bits: 4: linear layers are quantized while they are read; None: they are not.
        check_tokenizer: called with the tokenizer before the weights are read, which takes minutes; it may raise UserError.

    Returns:
        The model and its tokenizer.

    Raises:
        UserError: the folder is refused (`check_folder`), a file is damaged, or the tokenizer does not fit.
    """
    kind = check_folder(folder)
    local: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    options: dict[str, Any] = {"dtype": "auto"}
    if settings:
        attention = architectures.attention_to_load(kind, settings.attn_implementation)
        options = {"dtype": settings.dtype, "attn_implementation": attention}
    if base_bits:
        options |= quantized.loading_options()
    try:
        with _no_progress_bars():
            tokenizer = AutoTokenizer.from_pretrained(folder, **local)
    except Exception as error:
        raise loading.unreadable_tokenizer(folder, error) from None
    loading.check_tokenizer(folder, tokenizer)
    check_tokenizer(tokenizer)
    try:
        with _no_progress_bars():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True, **options, **local
            )
    except Exception as error:  # every library that reads a file reports damage with exceptions of its own
        raise loading.unreadable(folder, error) from None
    model, info = loaded
    loading.check_loading_info(folder, info)
    loading.check_finite_weights(folder, model)
    loading.check_token_ids(folder, model, tokenizer)
    return (prepare(model, settings.attn_implementation) if settings else model), tokenizer


def check_folder(folder: Path) -> str:
    """Check, before weights are read, that a folder is a model folder that can be trusted; return its `model_type`.

    Raises:
        UserError: `trusted_folder` refuses it, or transformers has no causal language model of its architecture.
    """
    trusted_folder.check_folder(folder)
    kind = strict_json.read(folder / "config.json", dict).get("model_type")
    if not isinstance(kind, str) or kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UserError(
            f"{folder}: architecture {one_line(repr(kind), 60)} is not supported: transformers has no such causal language model"
        )
    return kind


def save(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    stop_token_ids: Sequence[int] | None = None,
    base: tuple[str | None, str | None] = (None, None),
) -> None:
    """Write a Hugging Face model folder; of a model with an adapter, the adapter's folder.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        folder: the folder.
        stop_token_ids: what ends a response; generation_config.json names them beside the model's own. None: the tokenizer's
            end-of-sequence token.
        base: where an adapter's base is to be found: the name of a repository and its commit, or a folder relative to this one.
    """
    stop_tokens = [tokenizers.eos_token_id(tokenizer)] if stop_token_ids is None else stop_token_ids
    config = generation_config.extended(model, tokenizer, stop_tokens)
    model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]  # `save_pretrained` refuses some published ones
    if adapters.of(model):
        adapters.save(model, folder, base=base[0], revision=base[1])
    else:
        with _no_progress_bars():
            model.save_pretrained(folder)
    generation_config.save(config, folder)
    model.generation_config = config
    tokenizer.save_pretrained(folder)


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Switch off transformers' progress bars and reports: the run reports its stages itself, and damage is one error."""
    from transformers import modeling_gguf_pytorch_utils as gguf
    from transformers.utils import logging

    was_enabled, original_tqdm = logging.is_progress_bar_enabled(), gguf.tqdm  # type: ignore[attr-defined]
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    gguf.tqdm = lambda items, **_: items  # type: ignore[attr-defined]  # this bar cannot be switched off
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")  # such shapes do not fit the weights: one error
            yield
    finally:
        logging.set_verbosity(verbosity)
        gguf.tqdm = original_tqdm  # type: ignore[attr-defined]
        if was_enabled:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def weights_sha256(model: nn.Module) -> str:
    """Compute the SHA-256 of all tensors by name; of a model with an adapter see `adapters.sha256`."""
    return adapters.sha256(model) if adapters.of(model) else tensors_sha256(model.state_dict())
