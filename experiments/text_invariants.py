"""What holds between text and tokens, for every kind of tokenizer: the tables of docs/text.md.

    python experiments/text_invariants.py                                 # the invariants, on self-made rows
    python experiments/text_invariants.py --before-and-after FILE         # Mistral's tokenizers on the preferences of a file
    python experiments/text_invariants.py --smollm2 FILE                  # rows of the recipe smollm2-135m that have other tokens

"Encoded alone" is how responses were tokenized before: without the prompt in front of them.
"""

import argparse
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "data"))
import tokenizer_zoo

from spac_repro import recipes
from spac_repro.data.frames import INSTRUCTION
from spac_repro.data.preferences import Preference, read_preferences
from spac_repro.data.rendering import Renderer
from spac_repro.recipe import DataSettings

FRAMES = ("plain", "instruction", "chat")
PROMPTS = (
    *("Name a colour", "Is 2 + 2 = 4?", "Wähle: ", "list:\n", "Show </s> and <|im_end|> in HTML."),
    *("世界?", "(", "Say “hi”", "a", "x = 1;\n\n"),
)
RESPONSES = (
    *("The answer is 4.", "4", "Red, green, blue.", "é", "“hi”", "\n\nYes."),
    *(" a space first", "world", "<b>no</s>more</b>", "- one\n- two"),
)
HEADER = (
    "| tokenizer | frame | encoded alone | encoded behind the prompt | straddled | text lost | special tokens | begin and end |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- |"
)


def make_renderer(name: str, frame: str) -> Renderer:
    """Return the renderer of a tokenizer of the zoo."""
    settings = DataSettings(
        source="file", name=None, revision=None, max_pairs=None, prompt_template=frame, max_prompt_tokens=4096,
        max_response_tokens=4096, overlong_prompts="refuse", world=None,
    )  # fmt: skip
    return Renderer(tokenizer_zoo.ZOO[name](), settings)


def invariants(name: str, frame: str) -> str:
    """Return a line of the table: numbers of rows, of 100; of 81 where the tokenizer itself would take text for special tokens."""
    renderer, tokenizer = make_renderer(name, frame), tokenizer_zoo.ZOO[name]()
    rows = [Preference(({"role": "user", "content": prompt},), response, "no") for prompt, response in product(PROMPTS, RESPONSES)]
    tokenized = renderer.tokenize(rows)
    straddled = lost = special = ends = alone = behind = 0
    names = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id, tokenizer.pad_token_id}
    frame_ids = renderer.prompt_ids(Preference(({"role": "user", "content": "a"},), "a", "no"))
    for row, prompt, chosen in zip(rows, tokenized.prompt, tokenized.chosen, strict=True):
        straddles = bool(renderer.tokenize([row]).summary.counts.get("straddled"))
        straddled += straddles
        special += [t for t in prompt if t in names] != [t for t in frame_ids if t in names] or bool(names & {*chosen[:-1]})
        twice = frame != "chat" and prompt[:2] == [tokenizer.bos_token_id] * 2
        ends += twice or [t for t in chosen if t in renderer.stop_token_ids] != [renderer.end_token_id]
        if "</s>" not in row.prompt[0]["content"] + row.chosen:
            before, whole = apart_and_whole(tokenizer, frame, row)
            alone += before != whole
            behind += not straddles and [*prompt, *chosen[: len(chosen) - 1]] != whole
            own = tokenizer.decode(tokenizer(row.chosen, add_special_tokens=False).input_ids, skip_special_tokens=True)
            lost += "".join(renderer.decode(chosen).split()) != "".join(own.split()) and not straddles
    return f"| {name} | {frame} | " + " | ".join(map(str, (alone, behind, straddled, lost, special, ends))) + " |"


def apart_and_whole(tokenizer: Any, frame: str, row: Preference) -> tuple[list[int], list[int]]:
    """Return a row's tokens with the response encoded alone, and those of the whole text; without the end."""
    if frame == "chat":
        messages = [*row.prompt, {"role": "assistant", "content": row.chosen}]
        prompt = tokenizer.apply_chat_template(list(row.prompt), tokenize=False, add_generation_prompt=True)
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        text = text[: text.rindex(row.chosen) + len(row.chosen)]
    else:
        prompt = (INSTRUCTION if frame == "instruction" else "{prompt}").format(prompt=row.prompt[0]["content"])
        text = prompt + row.chosen
    bare, begun = (list(tokenizer("a", add_special_tokens=special).input_ids) for special in (False, frame != "chat"))
    begin = begun[: len(begun) - len(bare)] if begun[-len(bare) :] == bare else begun[:1]
    prompt_ids, response_ids, whole = (
        list(tokenizer(part, add_special_tokens=False).input_ids) for part in (prompt, row.chosen, text)
    )
    return [*begin, *prompt_ids, *response_ids], [*begin, *whole]


def before_and_after(name: str, frame: str, rows: Sequence[Preference]) -> str:
    """Return a line of the second table: of the chosen responses, how many have other tokens than their text, before and after."""
    renderer, tokenizer = make_renderer(name, frame), tokenizer_zoo.ZOO[name]()
    before = after = 0
    for row in rows:
        apart, whole = apart_and_whole(tokenizer, frame, row)
        before += apart != whole
        after += [*renderer.prompt_ids(row), *renderer.response_ids(row, row.chosen)[:-1]] != whole
    return f"| {name} | {frame} | {before} of {len(rows)} | {after} of {len(rows)} |"


def changed_for_smollm2(rows: Sequence[Preference]) -> str:
    """Say how many texts have other tokens in the recipe smollm2-135m than with responses encoded alone."""
    tokenizer, data = tokenizer_zoo.smollm2(), recipes.load("smollm2-135m").recipe.data
    tokenized = Renderer(tokenizer, data).tokenize(rows)
    changed = dict.fromkeys(("prompts", "chosen", "rejected"), 0)
    for row, prompt, *responses in zip(rows, tokenized.prompt, tokenized.chosen, tokenized.rejected, strict=True):
        messages = list(row.prompt)
        before = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)[-data.max_prompt_tokens :]
        changed["prompts"] += before != prompt
        for name, text, response in zip(("chosen", "rejected"), (row.chosen, row.rejected), responses, strict=True):
            alone = [*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
            changed[name] += alone[: data.max_response_tokens] != response
    return f"of {len(rows)} rows have other tokens: " + ", ".join(f"{name} {number}" for name, number in changed.items())


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before-and-after", metavar="FILE", help="preferences")
    parser.add_argument("--smollm2", metavar="FILE", help="preferences")
    arguments = parser.parse_args()
    if arguments.smollm2:
        print(changed_for_smollm2(read_preferences(arguments.smollm2)))
        return
    file = arguments.before_and_after
    if file is None:
        print(HEADER, *(invariants(name, frame) for name in tokenizer_zoo.ZOO for frame in FRAMES), sep="\n")
        return
    rows = read_preferences(file)
    print("| tokenizer | frame | encoded alone | encoded behind the prompt |\n| --- | --- | --- | --- |")
    for name, frame in product([name for name in tokenizer_zoo.ZOO if "Mistral" in name], FRAMES[1:]):
        print(before_and_after(name, frame, rows[:800]))


if __name__ == "__main__":
    main()
