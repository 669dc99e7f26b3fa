"""`--policy`: a model folder, or a model of the hub at a commit; and the settings that it stands for."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from spac_repro.documents.errors import one_line
from spac_repro.errors import UserError

COMMIT = re.compile(r"[0-9a-f]{40}")
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def overrides(policy: str | None, settings: Sequence[str] | None = None) -> list[str]:
    """Return --set with the settings that --policy stands for before it, since those identify a run.

    The revision of a folder is a hash of its weights and configuration.

    Raises:
        UserError: the folder is refused, or a model of the hub has no commit.
    """
    own = [] if policy is None else [f"policy.{key}={json.dumps(value)}" for key, value in _settings(policy).items()]
    return [*own, *(settings or ())]


def is_folder(policy: str) -> bool:
    """Whether a policy is a folder. OWNER/NAME@REVISION is a model of the hub; what looks like a path is a folder."""
    return Path(policy).exists() or policy.startswith((".", "/", "~")) or not HUB_NAME.fullmatch(policy.partition("@")[0])


def _settings(policy: str) -> dict[str, str | int | None]:
    if is_folder(policy):
        from spac_repro.model import folder_identity

        folder = Path(policy)
        folder_identity.check_complete(folder)
        revision, parameters = folder_identity.sha256(folder), folder_identity.number_of_parameters(folder)
        return {"source": "folder", "name": policy, "revision": revision, "num_parameters": parameters, "architecture": None}
    name, _, revision = policy.partition("@")
    if not COMMIT.fullmatch(revision):
        found = f"{one_line(revision, 60)!r} is no commit" if revision else "has no commit"
        raise UserError(
            f"--policy {one_line(policy, 100)}: {found}; write {one_line(name, 60)}@COMMIT with the 40 hex digits of the hub: "
            "a branch or a tag can change"
        )
    return {"source": "hub", "name": name, "revision": revision, "num_parameters": None, "architecture": None}
