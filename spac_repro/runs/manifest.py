"""manifest.json: the identity of a run.

It holds the settings with their provenance, the hashes of the inputs, and the environment. It has no clock times, host names or
absolute paths.
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from spac_repro.documents.location import NamedSource
from spac_repro.documents.validation import validate
from spac_repro.errors import UserError
from spac_repro.recipe import Provenance, RecipeName, complete, settings_digest
from spac_repro.renamed_settings import present_key, upgrade
from spac_repro.runs import files

SCHEMA = 2  # 1: version 0.1, whose settings had other names
REQUIRED_KEYS = ("recipe", "method", "seed", "settings", "inputs", "environment")
IDENTITY_KEYS = ("recipe", "method", "seed", "settings", "inputs")  # in the order in which differences are reported
MAPPING_KEYS = {
    "settings": ("methods", "policy", "data", "selfplay", "training", "evaluation"),
    "environment": ("source", "lock", "libraries"),  # null where it is not known
}


class WrittenMetrics(BaseModel):
    """The beginning of metrics.jsonl that belongs to an iterate and those before it."""

    model_config = ConfigDict(frozen=True)

    bytes: int = Field(default=0, ge=0)
    sha256: str = hashlib.sha256().hexdigest()


# Settings that came after version 0.2, by dotted key, with the values that reproduce the behaviour before.
LATER: dict[str, Any] = {
    "data.heldout_prompts": None,
    "evaluation.protocol": "current",
    "methods.spac.critic_weight": 1.0,
    "methods.spac.chosen_penalty_weight": 0.0,
}


class Manifest(BaseModel):
    """The identity of a run. Keys that this version does not know are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    schema_version: int = Field(alias="schema")
    recipe: RecipeName
    method: str
    seed: int
    settings: dict[str, Any]
    settings_sha256: str | None = None
    provenance: dict[str, Provenance] = Field(default_factory=dict)
    inputs: dict[str, Any]
    data: dict[str, Any] = Field(
        default_factory=dict
    )  # what reading the inputs found, such as dropped rows; no part of the identity
    environment: dict[str, Any]
    segments: list[dict[str, Any]] = Field(default_factory=list)  # the environments in which it was resumed
    equal_bits_claimed: bool = True
    written_files: dict[str, str] | None = None  # SHA-256 of what the run has written, by path in its folder; None: not recorded
    # The beginning of metrics.jsonl that belongs to the iterates so far, by iteration. The entry of an iterate is there before it.
    written_metrics: dict[str, WrittenMetrics] = Field(default_factory=dict)

    @field_validator("settings", "environment")
    @classmethod
    def _check_mappings(cls, values: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        """Check the groups that readers use as mappings. A group may be missing: another version may not have had it."""
        for name in MAPPING_KEYS[str(info.field_name)]:
            unknown = values.get(name, {}) is None and info.field_name == "environment"
            if not (unknown or isinstance(values.get(name, {}), Mapping)):
                raise ValueError(f"{name} must be a group of values")
        return values

    def identity(self) -> dict[str, Any]:
        """Return what distinguishes the run from others.

        A setting that was added after the run has its neutral value, so that an old run equals its repetition today.
        """
        return {part: getattr(self, part) for part in IDENTITY_KEYS} | {"settings": complete(self.settings)}

    def identity_sha256(self) -> str:
        """Return the SHA-256 of the identity. Intermediate files are bound to it, so settings that came later do not change it."""
        identity = self.identity()
        return files.sha256_json(identity | {"settings": _without_later(identity["settings"])})

    def as_json(self) -> dict[str, Any]:
        """Return the content of manifest.json: all fields, and a hash of them."""
        content = self.model_dump(mode="json", by_alias=True)
        if not self.data:
            del content["data"]
        return {**content, "sha256": files.sha256_json(content)}

    def with_segment(self, environment: Mapping[str, Any]) -> "Manifest":
        """Return the manifest of the run resumed in another environment. It no longer claims equal bits."""
        return self.model_copy(update={"segments": [*self.segments, dict(environment)], "equal_bits_claimed": False})


def _without_later(settings: Mapping[str, Any], group: str = "") -> dict[str, Any]:
    """The settings of a group without those that came later and stand at their neutral values."""
    return {
        key: _without_later(value, f"{group}{key}.") if isinstance(value, Mapping) else value
        for key, value in settings.items()
        if LATER.get(f"{group}{key}", LATER) != value
    }


def read(path: Path) -> Manifest:
    """Read a manifest.

    Raises:
        UserError: The file cannot be read, is incomplete, was changed by hand, or needs a newer version.
    """
    found = files.read_json(path)
    if not isinstance(found, dict):
        raise UserError(f"{path}: half a manifest: no {REQUIRED_KEYS[0]!r}; repeat the run's `train` command")
    files.check_schema(path, found, SCHEMA)
    sealed, has_hashes = found.pop("sha256", None), found.get("written_files") is not None
    if (sealed is not None or has_hashes) and sealed != files.sha256_json(found):
        raise UserError(f"{path}: its hash is not the one written in it: the file was changed by hand or is damaged")
    for part in REQUIRED_KEYS:
        if part not in found:
            raise UserError(f"{path}: half a manifest: no {part!r}; repeat the run's `train` command")
    if found.get("schema", 1) == 1:
        found = upgraded(found)
    return validate(Manifest, found, NamedSource(str(path)), remedy="the file was changed by hand")


def upgraded(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the settings in a manifest of version 0.1, together with their provenance and their digest.

    The digest is replaced only where it was the digest of the old settings: a manifest that was edited stays inconsistent.
    """
    old, method = manifest["settings"], str(manifest["method"])
    if not isinstance(old, Mapping):
        return dict(manifest)  # refused when it is validated
    new = upgrade(old, method)
    digest = manifest.get("settings_sha256")
    changes: dict[str, Any] = {
        "settings": new,
        "settings_sha256": settings_digest(new) if digest == settings_digest(old) else digest,
    }
    if isinstance(provenance := manifest.get("provenance"), Mapping):
        changes["provenance"] = {present_key(key, method): source for key, source in provenance.items()}
    return {**manifest, "schema": SCHEMA, **changes}


def leaf_differences(old: Any, new: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the leaves in which two trees differ: dotted key, old value and new value. A missing value is None."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            yield from leaf_differences(old.get(key), new.get(key), f"{prefix}{key}.")
    elif old != new:
        yield prefix.removesuffix("."), old, new
