"""`spac-repro data`: what is understood of preferences, before a run is trained on them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spac_repro.cli import choices, output, policy_source, preference_source
from spac_repro.cli.options import AsJson, MaxPairs, Overrides, Policy, Strict
from spac_repro.documents.errors import one_line
from spac_repro.errors import UnfitEnvironmentError, UserError

if TYPE_CHECKING:
    from rich.text import Text

    from spac_repro.data.overview import Lengths, Tokens
    from spac_repro.data.preferences import Preference
    from spac_repro.data.reading_summary import ReadingSummary
    from spac_repro.data.sources import Inputs
    from spac_repro.recipe import Run

Source = Annotated[
    str | None, typer.Argument(help="Preferences, as `train --preferences` takes them. Default: those that the recipe names.")
]
Recipe = Annotated[
    str | None,
    typer.Option(autocompletion=choices.recipe_names, help="Render the rows with the tokenizer and the template of this recipe."),
]
Revision = Annotated[str | None, typer.Option(metavar="COMMIT", help="Commit of a hub data set: the setting data.revision.")]

STYLES = {"prompt": "cyan", "chosen": "green", "rejected": "yellow", "end": "bold magenta"}
SHOWN = 60  # tokens, words or lines of a text that are shown


@dataclass(frozen=True)
class _View:
    """What is shown. `tokens` and `examples_as_tokens` are empty without a tokenizer, and `notes` says why there is none."""

    source: str
    summary: "ReadingSummary | None"
    preferences: "Sequence[Preference]"
    characters: "Mapping[str, Lengths]"
    tokens: "Mapping[str, Lengths]"
    examples_as_tokens: "Sequence[Tokens]"
    notes: Sequence[str]


def data(
    source: Source = None,
    recipe: Recipe = None,
    policy: Policy = None,
    overrides: Overrides = None,
    revision: Revision = None,
    max_pairs: MaxPairs = None,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Show what is understood of preferences: columns, rows kept and dropped, lengths, and three rows.

    Every row is read and checked as `train` does it. With --recipe, the rows are shown as the tokens that the policy is trained
    on, with colours for prompt, chosen response, rejected response and end of the response. Nothing is written.

    \b
    spac-repro data pairs.csv
    spac-repro data pairs.jsonl --recipe smollm2-135m
    spac-repro data FOLDER:train --strict
    spac-repro data OWNER/NAME:train_prefs --revision COMMIT
    """  # noqa: D301  # \b keeps the lines of the help
    from spac_repro import recipes

    if recipe is None and (overrides or policy):
        option = "--set" if overrides else "--policy"
        raise UserError(f"{option} changes a recipe; name one with --recipe, or omit {option}")
    if recipe is None and source is None:
        raise UserError("no preferences; name a file, a folder or a data set of the hub, or a recipe that has some with --recipe")
    settings = preference_source.overrides(overrides, source, max_pairs) + ([f"data.revision={revision}"] if revision else [])
    run = recipes.load(recipe, overrides=policy_source.overrides(policy, settings)) if recipe else None
    with output.progress(as_json) as progress:
        progress.start_stage("read the preferences")
        inputs = _read(run, source, revision, max_pairs, strict)
        if run:
            progress.start_stage("render the rows")
        view = _view(source or f"recipe {recipe}", inputs, run)
    if as_json:
        print(json.dumps(_as_json(view)))
    else:
        _show(view)


def _read(run: "Run | None", source: str | None, revision: str | None, max_pairs: int | None, strict: bool) -> "Inputs":
    from spac_repro.data import preferences, sources

    if run is not None:
        return sources.read(run, preferences=source, questions=None, strict=strict)
    reading = preferences.read(str(source), revision=revision, limit=max_pairs, strict=strict)
    return sources.Inputs(reading.preferences, None, None, summary=reading.summary)


def _view(source: str, inputs: "Inputs", run: "Run | None") -> _View:
    from spac_repro.data import overview

    rows, summary, notes = inputs.preferences, inputs.summary, inputs.messages()
    characters = overview.characters(rows)
    if run is None:
        return _View(source, summary, rows, characters, {}, (), notes)
    from spac_repro.data.rendering import Renderer
    from spac_repro.model import policy_tokenizer

    try:
        tokenizer = policy_tokenizer.load(run.recipe.policy)
    except UnfitEnvironmentError as error:
        return _View(source, summary, rows, characters, {}, (), [*notes, f"no tokens are shown: {error}"])
    renderer = Renderer(tokenizer, run.recipe.data, policy_tokenizer.model_stop_token_ids(run.recipe.policy))
    tokenized = renderer.tokenize(rows)
    examples = [overview.example(renderer, tokenized, number) for number in range(min(overview.EXAMPLES, len(rows)))]
    notes += tokenized.summary.messages()
    return _View(source, summary, rows, characters, overview.tokens(tokenized), examples, notes)


def _as_json(view: _View) -> dict[str, Any]:
    from spac_repro.data import overview
    from spac_repro.data.preferences import fingerprint

    summary = view.summary
    examples: list[dict[str, Any]] = [overview.text_as_json(row) for row in view.preferences[: overview.EXAMPLES]]
    for example, tokens in zip(examples, view.examples_as_tokens, strict=False):
        example["tokens"] = tokens.as_json()
    return {
        "source": view.source,
        "columns": {"read": summary.read_columns, "ignored": summary.ignored_columns} if summary else None,
        "rows_kept": len(view.preferences),
        "rows_dropped": {reason: asdict(rows) for reason, rows in summary.dropped.items()} if summary else {},
        "preferences_sha256": fingerprint(view.preferences),
        "characters": {name: asdict(lengths) for name, lengths in view.characters.items()},
        "tokens": {name: asdict(lengths) for name, lengths in view.tokens.items()} or None,
        "notes": list(view.notes),
        "examples": examples,
    }


# On a terminal


def _show(view: _View) -> None:
    summary = view.summary
    table = output.table(view.source, "what", "found")
    if summary:
        table.add_row("columns that are read", one_line(", ".join(summary.read_columns)))
        table.add_row("columns that are ignored", one_line(", ".join(summary.ignored_columns)) or "none")
    table.add_row("rows kept", f"{len(view.preferences):,}")
    for reason, rows in summary.dropped.items() if summary else ():
        table.add_row("rows dropped", f"{rows.number:,}: {reason} (first: {rows.first_place})")
    output.show(table)
    lengths = output.table("lengths", "", "unit", "median", "90 % are not longer than", "longest")
    for unit, columns in (("characters", view.characters), ("tokens", view.tokens)):
        for name, length in columns.items():
            lengths.add_row(name, unit, f"{length.median:,}", f"{length.percentile_90:,}", f"{length.longest:,}")
    output.show(lengths)
    for number, line in enumerate(_examples(view), start=1):
        output.show(f"row {number}")
        output.show(line)
    dropped = summary.number_dropped if summary else 0
    for note in view.notes[len(summary.dropped) if summary and dropped else 0 :]:  # the table has the dropped rows
        output.show(note)


def _examples(view: _View) -> "Iterator[Text]":
    """Three rows, as tokens if there is a tokenizer: a line for the prompt and for each response, each in its colour."""
    from spac_repro.data.overview import EXAMPLES

    if view.examples_as_tokens:
        for each in view.examples_as_tokens:
            yield _lines(
                ("prompt", each.prompt, None),
                ("chosen", each.chosen, each.chosen_end),
                ("rejected", each.rejected, each.rejected_end),
            )
        return
    for row in view.preferences[:EXAMPLES]:
        prompt = [word for message in row.prompt for word in (f"[{message['role']}]", *message["content"].split())]
        yield _lines(("prompt", prompt, None), ("chosen", row.chosen.split(), None), ("rejected", row.rejected.split(), None))


def _lines(*parts: tuple[str, Sequence[str], Sequence[str] | None]) -> "Text":
    """One line for each part: its name, its words, and its end. A response without an end was cut."""
    from rich.text import Text

    text = Text()
    for name, words, end in parts:
        text.append(f"  {name:<9}", style="dim")
        text.append(" ".join(map(_visible, _middle_cut(words))), style=STYLES[name])
        if end is not None:
            text.append(" " + (" ".join(map(_visible, end)) if end else "(cut)"), style=STYLES["end"])
        text.append("\n")
    text.rstrip()
    return text


def _middle_cut(words: Sequence[str]) -> Sequence[str]:
    if len(words) <= SHOWN:
        return words
    return [*words[: SHOWN // 3], f"… {len(words) - SHOWN:,} more …", *words[-(SHOWN - SHOWN // 3) :]]


def _visible(token: str) -> str:
    """A token in one word of printable characters."""
    shown = token.replace(" ", "␣").replace("\n", "⏎") if not token.startswith("…") else token
    return "".join(character if character.isprintable() else f"\\x{ord(character):02x}" for character in shown)
