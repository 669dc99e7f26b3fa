"""The audit of data versus self-play for a tokenizer alone: responses encoded apart from their prompts, and behind them.

    python experiments/audit_tokenizers.py tokenizers/mistral --preferences preferences/gsm8k_solutions.jsonl.gz

Nothing is sampled from a model. The policy is a stand-in: it gives the row's rejected response, in the tokens that the tokenizer
has for it behind the tokens of the prompt. So every response is canonical. What tells it from the chosen response is content, or
rendering.

*apart*: the prompt is encoded as it is, the response is encoded alone, and end-of-sequence ends it. This was the package's
rendering up to commit 72ce1f5. *behind*: the package's present rendering.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from spac_repro.data import audit, dataset, tokenizers
from spac_repro.data.audit import Codec
from spac_repro.data.preferences import Preference, read_preferences
from spac_repro.data.rendering import Renderer
from spac_repro.recipe import DataSettings, complete
from spac_repro.runs.audit import Audit
from spac_repro.runs.folder import RunFolder

FRAME = "### Instruction: {prompt}\n\n### Response: "
# As in zephyr-7b-sft-full, for a tokenizer that has no template.
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
COLUMNS = (
    "frame", "rendering", "data begin with", "self-play begins with", "accuracy", "rendering's own share", "p", "non-canonical",
    "rewritten",
)  # fmt: skip


def standard(frame: str) -> DataSettings:
    """The settings of the recipe zephyr-7b, with a frame."""
    lengths = {"max_prompt_tokens": 512, "max_response_tokens": 256, "overlong_prompts": "truncate"}
    sources = dict.fromkeys(("name", "revision", "max_pairs", "world"))
    return DataSettings.model_validate({"source": "file", **sources, **lengths, "prompt_template": frame})


def say(tokenizer: Any, prompt: Sequence[int], frame: str, text: str) -> list[int]:
    """The tokens that the tokenizer has for a text behind the tokens of a prompt.

    Where prompt and text together have other tokens than the prompt (its last space joins the text's first word), the text goes on
    after that space: it is encoded behind a line break.
    """
    shown = tokenizer.decode(prompt[-8:])
    if frame == "instruction" and not shown.endswith(" "):
        text = " " + text
    for head in (shown, "\n"):
        before = tokenizer(head, add_special_tokens=False).input_ids
        joint = tokenizer(head + text, add_special_tokens=False).input_ids
        if joint[: len(before)] == before and (head == "\n" or before[-1:] == list(prompt[-1:])):
            return list(joint[len(before) :])
    raise SystemExit(f"the tokenizer joins a line break with {text[:20]!r}")


def apart(tokenizer: Any, rows: Sequence[Preference], data: DataSettings, sampled: Sequence[list[int]] | None = None) -> Audit:
    """The audit of the rendering of commit 72ce1f5.

    Args:
        tokenizer: the policy's tokenizer.
        rows: preference pairs.
        data: frame and limits.
        sampled: a run's self-play responses; None: those of the stand-in.
    """
    end, limit, frame = tokenizer.eos_token_id, data.max_response_tokens, data.prompt_template

    def prompt_ids(row: Preference) -> list[int]:
        if frame == "chat":
            ids = tokenizer.apply_chat_template(list(row.prompt), add_generation_prompt=True, return_dict=False)
        else:
            ids = tokenizer(FRAME.format(prompt="\n\n".join(message["content"] for message in row.prompt))).input_ids
        return list(ids[-data.max_prompt_tokens :])

    def response_ids(text: str) -> list[int]:
        return [*tokenizer(text, add_special_tokens=False).input_ids, end][:limit]

    def re_encode(row: int, response: Sequence[int]) -> list[int]:
        ended = response[-1] == end
        tokens = response_ids(tokenizer.decode(response[:-1] if ended else response))
        return tokens if ended else [token for token in tokens if token != end]

    prompts = [prompt_ids(row) for row in rows]
    selfplay = sampled or [
        [*say(tokenizer, prompt, frame, row.rejected), end][:limit] for prompt, row in zip(prompts, rows, strict=True)
    ]
    chosen = [response_ids(row.chosen) for row in rows]
    return audit.measure(prompts, {"chosen": chosen}, selfplay, codec(tokenizer, re_encode, (end,)))


def behind(tokenizer: Any, rows: Sequence[Preference], data: DataSettings, sampled: Sequence[list[int]] | None = None) -> Audit:
    """The audit of the present rendering; for the arguments, see `apart`."""
    renderer = Renderer(tokenizer, data)
    end, limit, frame = renderer.end_token_id, data.max_response_tokens, data.prompt_template
    prompts = [renderer.prompt_ids(row) for row in rows]
    selfplay = sampled or [
        [*say(tokenizer, prompt, frame, row.rejected), end][:limit] for prompt, row in zip(prompts, rows, strict=True)
    ]
    chosen = [renderer.response_ids(row, row.chosen) for row in rows]
    coding = codec(tokenizer, lambda i, response: renderer.re_encode(rows[i], response), renderer.stop_token_ids)
    return audit.measure(prompts, {"chosen": chosen}, selfplay, coding)


def codec(tokenizer: Any, re_encode: Callable[[int, Sequence[int]], Sequence[int]], stop_token_ids: Sequence[int]) -> Codec:
    """What the audit asks, with the tokenizer's own functions."""
    row_text = partial(tokenizer.decode, clean_up_tokenization_spaces=False)
    return Codec(
        re_encode,
        row_text,
        lambda token: str(tokenizer.convert_ids_to_tokens(token)),
        stop_token_ids,
        tokenizer.all_special_ids,
        tokenizers.unknown_token_id(tokenizer),
    )


def lines(
    tokenizer: Any, rows: Sequence[Preference], settings: Sequence[DataSettings], sampled: Sequence[list[int]] | None = None
) -> Iterator[str]:
    """The table, for each of the settings; for the other arguments, see `apart`."""
    yield f"| {' | '.join(COLUMNS)} |"
    yield f"| {' | '.join(['---'] * len(COLUMNS))} |"
    for data in settings:
        for rendering in (apart, behind):
            found = rendering(tokenizer, rows, data, sampled)
            first = found.comparisons["chosen"].first_token
            begins = [
                ", ".join(f"`{token}` {share:.0%}" for token, share in found.sides[side].first_tokens[:2])
                for side in ("chosen", "selfplay")
            ]
            figures = f"{first.accuracy:.3f} ± {first.stderr:.3f} | {first.rendering:+.3f} | {first.p:.1g}"
            changes = f"{found.non_canonical:.1%} | {found.rewritten:.1%}"
            yield f"| {data.prompt_template} | {rendering.__name__} | {' | '.join(begins)} | {figures} | {changes} |"


def load(folder: Path) -> Any:
    """A tokenizer from a folder, or from a GGUF file; with a chat template of its own, or with `TEMPLATE`."""
    file = {"gguf_file": folder.name} if folder.suffix == ".gguf" else {}
    tokenizer = AutoTokenizer.from_pretrained(folder.parent if file else folder, **file)
    tokenizer.chat_template = tokenizer.chat_template or TEMPLATE
    return tokenizer


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", type=Path, help="a folder with a tokenizer, or a GGUF file")
    parser.add_argument("--preferences", required=True)
    parser.add_argument("--run", type=Path, help="take the self-play responses, frame and limits of this run")
    parser.add_argument("--iteration", type=int, default=1, help="of the run")
    arguments = parser.parse_args()
    tokenizer, settings, sampled = load(arguments.tokenizer), [standard("instruction"), standard("chat")], None
    if arguments.run:
        run = RunFolder.open(arguments.run)
        settings = [DataSettings.model_validate(complete(run.manifest.settings)["data"])]
        sampled = list(dataset.read(run.iteration(arguments.iteration).dataset_file).responses["selfplay"])
    rows = read_preferences(arguments.preferences, limit=len(sampled) if sampled else None)
    print("\n".join(lines(tokenizer, rows, settings, sampled)))


if __name__ == "__main__":
    main()
