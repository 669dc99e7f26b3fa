"""How the harness makes a prompt of a row, as a task file may say it: the harness's own keys, as far as they run no code.

The harness executes whatever its own loader finds: a `!function` of a YAML file, a `class`, a metric that is fetched from the hub.
None of these can be written here. A stock task file of the installed harness may be included, and brings what it needs.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from spac_repro.documents.settings import Settings
from spac_repro.documents.suggestions import did_you_mean

Text = Annotated[str, Field(min_length=1)]
SUBJECT = "{subject}"  # in the name of a stock task file: one file a subject


def _stock() -> Path:
    """The folder of the harness's own task files, found without importing the harness."""
    spec = find_spec("lm_eval")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "tasks"


STOCK = _stock()


def _is_stock(name: str) -> str:
    """A stock task file by its place under lm_eval/tasks, without `.yaml`."""
    folder, _, file = name.rpartition("/")
    if ".." in name.split("/") or name.startswith("/") or not list((STOCK / folder).glob(f"{file.replace(SUBJECT, '*')}.yaml")):
        near = did_you_mean(file, sorted(path.stem for path in (STOCK / folder).glob("*.yaml"))) if folder else ""
        raise ValueError(f"lm_eval/tasks has no {name}.yaml{near}")
    return name


def _variables(text: str) -> set[str]:
    """The columns that a template names."""
    from jinja2 import TemplateError, meta
    from jinja2.sandbox import SandboxedEnvironment

    try:
        return set(meta.find_undeclared_variables(SandboxedEnvironment().parse(text)))
    except TemplateError as error:
        raise ValueError(f"not a template ({error})") from None


def _is_template(text: str) -> str:
    _variables(text)
    return text


StockName = Annotated[Text, AfterValidator(_is_stock)]


Template = Annotated[Text, AfterValidator(_is_template)]  # or a column's name


class Generation(Settings):
    """Where a generated answer ends. It is the likeliest answer: nothing is sampled."""

    until: Annotated[tuple[Text, ...], Field(min_length=1)]


class FewShot(Settings):
    """How examples are chosen: drawn, or the first ones."""

    sampler: Literal["default", "first_n"]


class Step(Settings):
    """One step from a generated text to the answer in it."""

    function: Literal["regex", "take_first", "lowercase", "uppercase", "remove_whitespace"]
    regex_pattern: Text | None = None
    group_select: int | None = None


class Filter(Settings):
    """A way to find the answer in a generated text; its name is the second part of a metric's key."""

    name: Text
    filter: Annotated[tuple[Step, ...], Field(min_length=1)]


class Prompt(Settings):
    """The harness's keys for one task. A key that is left out is the included file's, or has the harness's default.

    A text is a column's name or a Jinja template over the columns; `doc_to_choice` may be a list of texts.
    """

    include: StockName | None = None
    output_type: Literal["multiple_choice", "generate_until"] | None = None
    description: Annotated[str, AfterValidator(_is_template)] | None = None
    doc_to_text: Template | None = None
    doc_to_choice: Template | tuple[str, ...] | None = None
    doc_to_target: Template | Annotated[int, Field(ge=0)] | None = None
    target_delimiter: str | None = None
    fewshot_delimiter: str | None = None
    fewshot_config: FewShot | None = None
    generation_kwargs: Generation | None = None
    filter_list: tuple[Filter, ...] | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> "Prompt":
        if self.include is not None:
            return self
        needed = ["output_type", "doc_to_text", "doc_to_target"]
        if self.output_type is not None:
            needed.append("doc_to_choice" if self.output_type == "multiple_choice" else "generation_kwargs")
        if missing := [key for key in needed if getattr(self, key) is None]:
            raise ValueError(f"a prompt without `include` needs {', '.join(missing)}")
        return self

    @property
    def generates(self) -> bool:
        """Whether an answer is generated, as far as is said here."""
        return self.output_type == "generate_until"

    def keys(self) -> dict[str, Any]:
        """What is said here, as the harness reads it; `include` aside."""
        return self.model_dump(mode="json", exclude={"include"}, exclude_none=True)

    def stock_file(self, subject: str = "") -> Path | None:
        """The included file."""
        return None if self.include is None else STOCK / f"{self.include.replace(SUBJECT, subject)}.yaml"

    def stock_subjects(self) -> list[str]:
        """The subjects that there are stock task files for; none where a prompt is the same for all."""
        if self.include is None or SUBJECT not in self.include:
            return []
        prefix, suffix = f"{self.include}.yaml".rpartition("/")[2].split(SUBJECT)
        files = (STOCK / self.include).parent.glob(f"{prefix}*{suffix}")
        return sorted(file.name.removeprefix(prefix).removesuffix(suffix) for file in files)

    def columns(self) -> dict[str, set[str]]:
        """The columns that each text names. A text without a template that names a question is a column itself."""
        found: dict[str, set[str]] = {}
        for key in ("description", "doc_to_text", "doc_to_choice", "doc_to_target"):
            value = getattr(self, key)
            if not isinstance(value, str):
                continue
            if "{{" in value or "{%" in value:
                found[key] = _variables(value)
            elif key != "description":  # which may be plain words
                found[key] = {value}
        return found


def by_name(value: Any) -> Any:
    """The name of a stock task file stands for a prompt that includes it and changes nothing."""
    return {"include": value} if isinstance(value, str) else value


Written = Annotated[Prompt, BeforeValidator(by_name)]
