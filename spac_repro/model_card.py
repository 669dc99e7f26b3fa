"""The README of a saved policy: what it is, how it came about, and what it is not for."""

from spac_repro.recipe import Run


def card(run: Run, iteration: int) -> str:
    """A Hugging Face model card in Markdown."""
    settings = run.recipe.policy
    base = f"base_model: {settings.name}\n" if settings.source == "hub" else ""
    what = "the start, before any preference was seen" if iteration == 0 else f"iterate {iteration} of `{run.method}`"
    origin = {
        "random": "random weights and a supervised start on a built-in synthetic world",
        "package": f"the weights in the Python package {settings.name} {settings.revision}",
        "hub": f"{settings.name} at revision {settings.revision}",
    }[settings.source]
    return f"""---
library_name: transformers
tags: [spac-repro, {run.method}]
{base}---

# {run.recipe.name}, {run.method}, seed {run.seed}: iterate {iteration}

This is {what}, trained by spac-repro from {origin}.
The run folder that it lies in says with which settings, data and environment (`manifest.json`) and how well it does
(`results.json`). `fingerprint.json` holds the SHA-256 of the weights by tensor.

It is a step in repeating an experiment, not a product: nobody has checked what it says for safety or truth. The licence is that
of the weights it began from.
"""
