"""The settings of the policy: its weights, its arithmetic, and an adapter to train in their place."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from spac_repro.documents.base_model import PositiveFloat, PositiveInt, Settings


class ArchitectureSettings(Settings):
    """Shape of a Mistral-architecture policy that starts from random weights."""

    hidden_size: Annotated[int, Field(gt=0, le=2**16)]
    intermediate_size: Annotated[int, Field(gt=0, le=2**18)]
    num_hidden_layers: Annotated[int, Field(gt=0, le=1000)]
    num_attention_heads: PositiveInt
    num_key_value_heads: PositiveInt
    sliding_window: PositiveInt | None
    max_position_embeddings: PositiveInt

    @model_validator(mode="after")
    def _heads_divide_evenly(self) -> "ArchitectureSettings":
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of 2 × num_attention_heads {self.num_attention_heads}: "
                "each head has an even width, because rotary embeddings turn pairs"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} must be a multiple of num_key_value_heads, "
                f"which is {self.num_key_value_heads}"
            )
        return self


class AdapterSettings(Settings):
    """A low-rank adapter (LoRA, Hu et al. 2021, arXiv 2106.09685): what is trained where the base's weights stay as they are."""

    rank: Annotated[int, Field(gt=0, le=2**16)]
    alpha: PositiveFloat  # the adapter's product is multiplied by alpha / rank
    targets: Annotated[tuple[str, ...], Field(min_length=1)]  # the names of the linear layers that get one, in every block
    num_parameters: PositiveInt | None = None  # for the plan; None: counted from the architecture
    base_bits: Literal[4] | None = None  # 4: the base in NormalFloat4 (QLoRA, arXiv 2305.14314), on a GPU; None: in policy.dtype


class PolicySettings(Settings):
    """The policy's weights and arithmetic before any training."""

    source: Literal["random", "package", "hub", "folder"]
    name: str  # hub: owner/name; package: distribution that carries the weights; folder: its path
    revision: str | None  # hub: a commit; package: the distribution's version; folder: sha256:…, the hash that identifies it
    num_parameters: PositiveInt | None  # for the plan; None: counted from the architecture
    architecture: ArchitectureSettings | None
    dtype: Literal["float32", "bfloat16"]
    attn_implementation: Literal["sdpa", "eager"]
    adapter: AdapterSettings | None = None  # None: all weights are trained

    @model_validator(mode="after")
    def _source_has_what_it_needs(self) -> "PolicySettings":
        if (self.architecture is not None) != (self.source == "random"):
            raise ValueError("`architecture` belongs to `source: random` and to nothing else")
        if self.source == "folder" and not self.revision:
            raise ValueError("`revision` is the hash of the folder; `--policy FOLDER` computes it (`recipes show` writes it, too)")
        if self.source != "random" and not self.revision:
            raise ValueError("`revision` is needed: a name alone can change what it points to")
        return self
