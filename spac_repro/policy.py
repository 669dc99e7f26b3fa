"""A causal language model as a distribution over responses: made, loaded, saved, hashed, and its log-probabilities."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

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
    PreTrainedTokenizerFast,
)

from spac_repro.errors import UnfitEnvironmentError, UserError
from spac_repro.preferences import world
from spac_repro.recipe import Policy as PolicySettings
from spac_repro.runs import read_json

# Architectures whose log-probabilities are logsumexp of the output layer on the last hidden state, with nothing in between.
ARCHITECTURES = ("llama", "mistral", "qwen2")

Side = Literal["left", "right"]


class Exchange(NamedTuple):
    """One prompt with one response, in tokens."""

    prompt: Sequence[int]
    response: Sequence[int]


@dataclass(frozen=True)
class Batch:
    """n exchanges side by side: length L each, R response tokens in all."""

    ids: Tensor  # [n, L] tokens
    mask: Tensor  # [n, L] 1 where there is a token, 0 for padding
    predicts: Tensor  # [n, L] true where the next token is one of the response
    targets: Tensor  # [R] the response tokens, in the order in which `predicts` reads
    owners: Tensor  # [R] the exchange that each belongs to


def collate(exchanges: Sequence[Exchange], *, pad: int, device: torch.device | str = "cpu", side: Side = "right") -> Batch:
    """Put exchanges side by side; a prompt has at least one token (otherwise nothing predicts the response)."""
    rows = [([*prompt, *response], [False] * len(prompt) + [True] * len(response)) for prompt, response in exchanges]
    return collate_rows(rows, pad=pad, device=device, side=side)


def collate_rows(
    rows: Sequence[tuple[Sequence[int], Sequence[bool]]],
    *,
    pad: int,
    device: torch.device | str = "cpu",
    side: Side = "right",
) -> Batch:
    """Pad rows, each given as tokens and which of them belong to a response, to the longest of them."""
    longest = max(len(tokens) for tokens, _ in rows)
    ids = torch.full((len(rows), longest), pad)
    mask = torch.zeros_like(ids)
    predicts = torch.zeros_like(ids, dtype=torch.bool)
    for row, (tokens, in_response) in enumerate(rows):
        begin = longest - len(tokens) if side == "left" else 0
        ids[row, begin : begin + len(tokens)] = torch.tensor(tokens)
        mask[row, begin : begin + len(tokens)] = 1
        predicts[row, begin : begin + len(tokens) - 1] = torch.tensor(in_response[1:], dtype=torch.bool)
    owners, places = predicts.nonzero(as_tuple=True)
    targets = ids[owners, places + 1]
    return Batch(*(tensor.to(device) for tensor in (ids, mask, predicts, targets, owners)))


class Policy(nn.Module):
    """π(y|x). `forward` gives log π(y|x) of whole responses; sampling goes through `model.generate`."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        """log π(y|x) = Σ over response tokens, prompt and padding never; [n], in fp32.

        Only positions that predict a response token reach the output layer, so that memory does not grow with
        vocabulary × padded length.
        """
        positions = (batch.mask.cumsum(-1) - 1).clamp(min=0)
        hidden = self.model.base_model(input_ids=batch.ids, attention_mask=batch.mask, position_ids=positions).last_hidden_state
        logits = self.model.get_output_embeddings()(hidden[batch.predicts]).float()
        logprobs = -cross_entropy(logits, batch.targets, reduction="none")
        return logprobs.new_zeros(len(batch.ids)).index_add(0, batch.owners, logprobs)


def world_tokenizer() -> PreTrainedTokenizerFast:
    """The built-in world's tokens: the words for its tasks, and single characters."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors

    tokens = ["<pad>", "<s>", "</s>", *world.TASKS, *world.CHARACTERS]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<pad>"))
    # A task's name is one token before its colon only: "add" also stands in words, and there it is three letters.
    pattern = Regex(f"(?:{'|'.join(world.TASKS)})(?=:)|[\\s\\S]")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern, behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", clean_up_tokenization_spaces=False
    )


def create(settings: PolicySettings, *, seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The policy that a recipe names, before any training: random weights drawn with `seed`, or a pretrained model.

    Raises:
        UserError: pickle weights, an architecture whose log-probabilities are not known to be exact.
        UnfitEnvironmentError: the package or the hub's files are not here.
    """
    if settings.source == "random":
        return _random(settings, seed)
    if settings.source == "package":
        return _packaged(settings)
    from spac_repro import hub

    return load(hub.snapshot(settings.name, settings.revision), settings)


def _random(settings: PolicySettings, seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    shape = settings.architecture
    assert shape is not None  # the recipe's own check
    tokenizer = world_tokenizer()
    config = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        sliding_window=shape.sliding_window,
        max_position_embeddings=shape.longest_sequence,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        attn_implementation=settings.attention,  # type: ignore[call-arg]  # taken by every configuration
        dtype=settings.dtype,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MistralForCausalLM(config).to(getattr(torch, settings.dtype)), tokenizer


def _packaged(settings: PolicySettings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
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
    with _no_bars():
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        model = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=settings.dtype,
            attn_implementation=settings.attention,
        )
    return model, tokenizer


def load(folder: Path, settings: PolicySettings | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A policy from a Hugging Face model folder; safetensors only, and never code from the folder.

    Raises:
        UserError: what `check_folder` refuses, or a damaged file.
    """
    check_folder(folder)
    local: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    how = {"dtype": settings.dtype, "attn_implementation": settings.attention} if settings else {"dtype": "auto"}
    try:
        with _no_bars():
            model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, **how, **local)
        return model, AutoTokenizer.from_pretrained(folder, **local)
    except Exception as error:  # a damaged file fails in as many ways as there are libraries that read it
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{folder} cannot be read ({reason}); make the folder again") from None


def check_folder(folder: Path) -> None:
    """Refuse, before anything is read, what is not a model folder that can be trusted and computed exactly."""
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no config.json; a Hugging Face model folder or a run folder is wanted")
    if not list(folder.glob("*.safetensors")):
        pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
        found = f"only pickle weights ({pickles[0]}), which can run code when read" if pickles else "no weights"
        raise UserError(f"{folder}: {found}; safetensors are wanted: convert with model.save_pretrained(…) where you trust them")
    kind = read_json(folder / "config.json").get("model_type")
    if kind not in ARCHITECTURES:
        raise UserError(f"{folder}: architecture {kind!r} is not supported; {', '.join(ARCHITECTURES)} are")


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a Hugging Face model folder."""
    # A checkpoint's own sampling settings (SmolLM2's, say) would silently steer whoever samples from the copy.
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=pad_token(tokenizer)
    )
    with _no_bars():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def _no_bars() -> Iterator[None]:
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


def pad_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that fills up rows; it is masked everywhere, so end-of-sequence serves where there is none."""
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id


def weights_sha256(model: nn.Module) -> str:
    """SHA-256 of the tensors by name (name, dtype, shape, bytes): the same whatever file or shards they lie in."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
