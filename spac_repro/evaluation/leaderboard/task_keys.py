"""The prompt of a task file: those keys of the harness that run no code.

The harness's own loader executes code: `!function` in a YAML file, `class`, metrics from the hub. A task file cannot contain these.
It may include a stock task file of the installed harness, which may run functions of the harness.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from spac_repro.documents.base_model import Settings
from spac_repro.documents.suggestions import did_you_mean

Text = Annotated[str, Field(min_length=1)]
SUBJECT = "{subject}"  # in the name of a stock task file: one file per subject


def _stock_tasks() -> Path:
    """The folder of the harness's own task files, without importing the harness."""
    spec = find_spec("lm_eval")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "tasks"


STOCK_TASKS = _stock_tasks()


def _check_stock_name(name: str) -> str:
    """Check the name of a stock task file: its path under lm_eval/tasks, without `.yaml`."""
    folder, _, file = name.rpartition("/")
    if (
        ".." in name.split("/")
        or name.startswith("/")
        or not list((STOCK_TASKS / folder).glob(f"{file.replace(SUBJECT, '*')}.yaml"))
    ):
        near = did_you_mean(file, sorted(path.stem for path in (STOCK_TASKS / folder).glob("*.yaml"))) if folder else ""
        raise ValueError(f"lm_eval/tasks has no {name}.yaml{near}")
    return name


def _template_columns(text: str) -> set[str]:
    """The columns that a Jinja template uses."""
    from jinja2 import TemplateError, meta
    from jinja2.sandbox import SandboxedEnvironment

    try:
        return set(meta.find_undeclared_variables(SandboxedEnvironment().parse(text)))
    except TemplateError as error:
        raise ValueError(f"not a template ({error})") from None


def _check_template(text: str) -> str:
    _template_columns(text)
    return text


StockName = Annotated[Text, AfterValidator(_check_stock_name)]


Template = Annotated[Text, AfterValidator(_check_template)]  # or a column's name


class Generation(Settings):
    """The strings that end a generated answer. Decoding is greedy."""

    until: Annotated[tuple[Text, ...], Field(min_length=1)]


class FewShot(Settings):
    """How few-shot examples are chosen: sampled, or the first ones."""

    sampler: Literal["default", "first_n"]


class FilterStep(Settings):
    """One step of a filter, from a generated text to the answer in it."""

    function: Literal["regex", "take_first", "lowercase", "uppercase", "remove_whitespace"]
    regex_pattern: Text | None = None
    group_select: int | None = None


class Filter(Settings):
    """Steps that extract the answer from a generated text. Its name is the second part of a metric's key."""

    name: Text
    filter: Annotated[tuple[FilterStep, ...], Field(min_length=1)]


class Prompt(Settings):
    """The prompt of a task in the harness's keys. A missing key is taken from the included file, or has the harness's default.

    A text is the name of a column or a Jinja template over the columns. `doc_to_choice` may be a list of texts.
    """

    include: StockName | None = None
    output_type: Literal["multiple_choice", "generate_until"] | None = None
    description: Annotated[str, AfterValidator(_check_template)] | None = None
    doc_to_text: Template | None = None
    doc_to_choice: Template | tuple[str, ...] | None = None
    doc_to_target: Template | Annotated[int, Field(ge=0)] | None = None
    target_delimiter: str | None = None
    fewshot_delimiter: str | None = None
    fewshot_config: FewShot | None = None
    generation_kwargs: Generation | None = None
    filter_list: tuple[Filter, ...] | None = None

    @model_validator(mode="after")
    def _is_complete(self) -> "Prompt":
        if self.include is not None:
            return self
        needed = ["output_type", "doc_to_text", "doc_to_target"]
        if self.output_type is not None:
            needed.append("doc_to_choice" if self.output_type == "multiple_choice" else "generation_kwargs")
        if missing := [key for key in needed if getattr(self, key) is None]:
            raise ValueError(f"a prompt without `include` needs {', '.join(missing)}")
        return self

    @property
    def is_generative(self) -> bool:
        """Whether this file (not the included one) says that answers are generated."""
        return self.output_type == "generate_until"

    def harness_keys(self) -> dict[str, Any]:
        """The keys of this file, without `include`, as the harness reads them."""
        return self.model_dump(mode="json", exclude={"include"}, exclude_none=True)

    def stock_file(self, subject: str = "") -> Path | None:
        """The included file, for a subject if there is one file per subject; None without `include`."""
        return None if self.include is None else STOCK_TASKS / f"{self.include.replace(SUBJECT, subject)}.yaml"

    def stock_subjects(self) -> list[str]:
        """The subjects that have a stock task file; an empty list if the prompt does not depend on the subject."""
        if self.include is None or SUBJECT not in self.include:
            return []
        prefix, suffix = f"{self.include}.yaml".rpartition("/")[2].split(SUBJECT)
        files = (STOCK_TASKS / self.include).parent.glob(f"{prefix}*{suffix}")
        return sorted(file.name.removeprefix(prefix).removesuffix(suffix) for file in files)

    def columns(self) -> dict[str, set[str]]:
        """The columns that each text uses. A text that is no template is the name of a column, except in `description`."""
        found: dict[str, set[str]] = {}
        for key in ("description", "doc_to_text", "doc_to_choice", "doc_to_target"):
            value = getattr(self, key)
            if not isinstance(value, str):
                continue
            if "{{" in value or "{%" in value:
                found[key] = _template_columns(value)
            elif key != "description":  # it may be plain text
                found[key] = {value}
        return found


def expand_stock_name(value: Any) -> Any:
    """Turn the name of a stock task file into a prompt that includes it unchanged."""
    return {"include": value} if isinstance(value, str) else value


PromptOrStockName = Annotated[Prompt, BeforeValidator(expand_stock_name)]
