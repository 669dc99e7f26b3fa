"""The command that repeats a run."""

import shlex

from spac_repro.recipe import complete
from spac_repro.runs.manifest import Manifest

OF_FOLDER = tuple(f"policy.{key}" for key in ("source", "name", "revision", "num_parameters", "architecture"))  # of --policy FOLDER


def train_command(manifest: Manifest, seed: str | None = None) -> str:
    """Return the `spac-repro train` command that repeats a run, as far as its manifest records it.

    Args:
        manifest: of the run.
        seed: what is written in place of the run's seed, for a command that repeats several runs.
    """
    settings = complete(manifest.settings)
    words = ["spac-repro", "train", "--recipe", manifest.recipe, "--method", manifest.method, "--seed", seed or str(manifest.seed)]
    own_folder = settings.get("policy", {}).get("source") == "folder"
    words += ["--policy", "FOLDER"] if own_folder else []
    for key, source in manifest.provenance.items():
        if source.mark == "set" and not (own_folder and key in OF_FOLDER):
            words += ["--set", source.why.removeprefix("--set ")]
    if settings.get("data", {}).get("source") == "file":
        words += ["--preferences", "FILE"]
    return shlex.join(words)
