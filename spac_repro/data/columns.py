"""Which columns of a row hold the prompt, the system message and the two responses, by the names that published data sets use."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from spac_repro.documents.errors import one_line, user_error
from spac_repro.errors import UserError

# Pairs of columns, the preferred response first. The first pair that a row has is read.
RESPONSE_COLUMNS = (
    ("chosen", "rejected"),  # TRL, UltraFeedback, HH-RLHF
    ("real", "generated"),  # SPIN
    ("preferred_output", "non_preferred_output"),  # OpenAI's preference format
    ("response_j", "response_k"),  # StackExchange paired
)
PROMPT_COLUMNS = ("prompt", "question", "input", "instruction", "conversations")
SYSTEM_COLUMNS = ("system", "system_prompt")
MAX_COLUMNS = 10_000  # of a table; more are no data set that anyone wrote
REFUSED_COLUMNS = ("tools", "functions", "images", "chat_template_kwargs")  # they change a prompt, and nothing here renders them
READ_COLUMNS = frozenset(
    (*(name for pair in RESPONSE_COLUMNS for name in pair), *PROMPT_COLUMNS, *SYSTEM_COLUMNS, *REFUSED_COLUMNS)
)
_PART_OF_A_PROMPT = frozenset((*PROMPT_COLUMNS, *SYSTEM_COLUMNS, *REFUSED_COLUMNS, "context", "history", "documents"))


@dataclass(frozen=True)
class Layout:
    """The columns of a row by their meaning. `prompt` and `system` are None where no column holds one."""

    prompt: str | None
    system: str | None
    chosen: str
    rejected: str
    refused: tuple[str, ...]
    ignored: tuple[str, ...]

    @property
    def read(self) -> tuple[str, ...]:
        """The columns that are read."""
        return tuple(name for name in (self.system, self.prompt, self.chosen, self.rejected) if name is not None)

    @property
    def ignored_prompt_columns(self) -> tuple[str, ...]:
        """The columns that are not read although their names, in any case, say that they are part of a prompt."""
        return tuple(name for name in self.ignored if name.lower() in _PART_OF_A_PROMPT or name.lower().startswith("system"))

    def check_refused(self, row: Mapping[str, object], where: str) -> None:
        """Check that no column of the row holds what would change its prompt and cannot be rendered.

        Raises:
            UserError: a column such as `tools` is not empty.
        """
        for name in self.refused:
            if not is_empty(row.get(name)):
                raise user_error(where, f"the column {name} would change the prompt, and is not rendered", remedy="remove the row")


def is_empty(value: object) -> bool:
    """Whether a value says nothing: null, no text, or a list or an object of nothing else, as Parquet fills up nested columns.

    A table holds the latter as JSON text.
    """
    if isinstance(value, dict):
        return all(map(is_empty, value.values()))
    if isinstance(value, str):
        return value.strip() in ("", "null", "[]", "{}")
    return value is None or (isinstance(value, list) and all(map(is_empty, value)))


def find_layout(columns: tuple[str, ...], where: str) -> Layout:
    """Find out what the columns mean.

    Args:
        columns: names of the columns that a row has.
        where: location of the row, for errors.

    Raises:
        UserError: the responses are missing, or several columns may hold the prompt.
    """
    found = _layout(columns)
    if isinstance(found, Layout):
        return found
    problem, remedy = found
    raise user_error(where, problem, remedy=remedy)


def check_header(columns: tuple[str, ...], where: str) -> None:
    """Check the header of a table.

    Raises:
        UserError: there are too many columns, a name occurs twice, or `find_layout` refuses them.
    """
    if len(columns) > MAX_COLUMNS:
        raise UserError(f"{where}: {len(columns):,} columns; check that this is the right file")
    if len(set(columns)) < len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise UserError(f"{where}: the column {one_line(twice, 40)} occurs twice; name every column once")
    find_layout(columns, where)


@lru_cache(maxsize=64)
def _layout(columns: tuple[str, ...]) -> Layout | tuple[str, str]:
    """The layout, or what is wrong with the columns and what to do about it."""
    pair = next((pair for pair in RESPONSE_COLUMNS if set(pair) <= set(columns)), None)
    if pair is None:
        wanted = next((pair for pair in RESPONSE_COLUMNS if set(pair) & set(columns)), RESPONSE_COLUMNS[0])
        missing = next(name for name in wanted if name not in columns)
        there = ", ".join(columns[:100])[:1000] or "none"
        return f"lacks the field {missing}; the fields there: {one_line(there, 120)}", "rename those that hold prompt and responses"
    prompts = [name for name in PROMPT_COLUMNS if name in columns]
    if len(prompts) > 1 and "prompt" not in prompts:
        return f"both {prompts[0]} and {prompts[1]} may hold the prompt", "write the whole prompt into one column, `prompt`"
    system = next((name for name in SYSTEM_COLUMNS if name in columns), None)
    prompt = prompts[0] if prompts else None
    refused = tuple(name for name in REFUSED_COLUMNS if name in columns)
    read = {prompt, system, *pair, *refused}
    return Layout(prompt, system, *pair, refused, tuple(name for name in columns if name not in read))
