"""What was read, held against a model: the first problem, at its place, through groups, lists and unions."""

from typing import Annotated, Literal

import pytest
from pydantic import Field, JsonValue, model_validator

from spac_repro.documents import yaml_subset
from spac_repro.documents.base_model import PositiveInt, Settings
from spac_repro.documents.location import NamedSource
from spac_repro.documents.validation import validate
from spac_repro.errors import UserError


class Cat(Settings):
    kind: Literal["cat"]
    lives: PositiveInt
    name: str = ""


class Dog(Settings):
    kind: Literal["dog", "hound"]
    tricks: list[str] = Field(default_factory=list)


class Owner(Settings):
    name: str
    version: str | None = None
    pets: dict[str, Annotated[Cat | Dog, Field(discriminator="kind")]] = Field(default_factory=dict)
    favourite: Annotated[Cat | Dog, Field(discriminator="kind")] | None = None
    options: dict[str, str | int | bool] = Field(default_factory=dict)
    rows: tuple[Cat, ...] = ()
    free: dict[str, JsonValue] = Field(default_factory=dict)
    either: Cat | Dog | None = None

    @model_validator(mode="after")
    def _not_nobody(self) -> "Owner":
        if self.name == "nobody":
            raise ValueError("somebody is wanted")
        return self


def read(text: str) -> Owner:
    document = yaml_subset.parse(text, "mine.yaml")
    return validate(Owner, document.value, document, missing_key_remedy="see the pattern")


def refusal(text: str) -> str:
    with pytest.raises(UserError) as refused:
        read(text)
    return str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nam: x", "mine.yaml, line 1: nam: unknown key (did you mean name?)"),  # before the one that is missing
        ("pets: {}", "mine.yaml: name: missing; see the pattern"),
        (
            "name: x\nzzz: 1",
            "mine.yaml, line 2: zzz: unknown key; the keys here are name, version, pets, favourite, options, rows, free",
        ),
        ("name: x\npets:\n  tom: {kind: cat, live: 9}", "mine.yaml, line 3: pets.tom.live: unknown key (did you mean lives?)"),
        ("name: x\npets:\n  tom:\n    kind: cat", "mine.yaml, line 3: pets.tom.lives: missing; see the pattern"),
        (
            "name: x\npets:\n  rex:\n    kind: hound\n    trick: []",
            "mine.yaml, line 5: pets.rex.trick: unknown key (did you mean tricks?)",
        ),
        (
            "name: x\npets:\n  rex:\n    kind: dog\n    tricks:\n    - sit\n    - [no]",
            "mine.yaml, line 7: pets.rex.tricks.1: Input should be a valid",
        ),
        ("name: x\npets: {cat: {kind: cat, cat: 1, lives: 1}}", "mine.yaml, line 2: pets.cat.cat: unknown key"),
        (
            "name: x\npets:\n  tom:\n    kind: fish",
            "mine.yaml, line 3: pets.tom: Input tag 'fish' found using 'kind' does not match",
        ),
        (
            "name: x\nfavourite: {kind: cat, lives: 0}",
            "mine.yaml, line 2: favourite.lives: Input should be greater than 0 (given 0)",
        ),
        (
            "name: x\nfavourite: {kind: dog, lives: 0}",
            "mine.yaml, line 2: favourite.lives: unknown key; the keys here are kind, tricks",
        ),
        ("name: x\noptions:\n  a: 1\n  b: [1]", "mine.yaml, line 4: options.b: Input should be a valid string"),
        (
            "name: x\nrows:\n- {kind: cat, lives: 1}\n- {kind: cat, lifes: 1}",
            "mine.yaml, line 4: rows.1.lifes: unknown key (did you mean lives?)",
        ),
        ("name: x\neither: {kind: cat}", "mine.yaml, line 2: either.lives: missing; see the pattern"),
        ("name: nobody", "mine.yaml: somebody is wanted"),
        ("name: [x]", "mine.yaml, line 1: name: Input should be a valid string"),
        ("name: true", "mine.yaml, line 1: name: Input should be a valid string (given True)"),
        ("- 1", "mine.yaml: must hold the keys name, version, pets, favourite, options, rows, free, either; see the pattern"),
        ("", "mine.yaml: must hold the keys"),
        ("name: " + "x" * 5000 + "\nversion: [" + "y" * 5000 + "]\n", "mine.yaml, line 2: version: Input should be a valid string"),
        ("name: x\n" + "z" * 1000 + ": 1", "mine.yaml, line 2: zzz"),
        (
            "name: x\nfavourite: {kind: cat, lives: '" + "q" * 5000 + "'}",
            "mine.yaml, line 2: favourite.lives: Input should be a valid integer",
        ),
    ],
)
def test_the_first_problem_has_its_line_and_key(text, message):
    found = refusal(text)
    assert found.startswith(message)
    assert len(found) <= 300
    assert "\n" not in found


def test_a_number_where_text_is_wanted_is_the_text_as_it_was_written():
    owner = read(
        "name: 1234567\nversion: 1.10\npets: {tom: {kind: cat, lives: 9, name: 12e3}}\noptions: {a: 1, b: 1.50}\nfree: {a: 1.50}"
    )
    assert (owner.name, owner.version, owner.pets["tom"].name) == ("1234567", "1.10", "12e3")
    assert owner.options["a"] == 1
    assert owner.free == {"a": 1.5}
    assert refusal("name: 1\nversion: true") == "mine.yaml, line 2: version: Input should be a valid string (given True)"
    assert refusal("name: 1\nlives: 3").startswith("mine.yaml, line 2: lives: unknown key")


def test_a_document_without_lines_is_named_by_key():
    with pytest.raises(UserError) as refused:
        validate(Cat, {"kind": "cat", "lives": 0}, NamedSource("a.json", ("settings",)), remedy="make it again")
    assert str(refused.value) == "a.json: settings.lives: Input should be greater than 0 (given 0); make it again"
    with pytest.raises(UserError, match=r"a\.json: must hold the keys kind, lives, name; make it again"):
        validate(Cat, None, NamedSource("a.json"), remedy="make it again")
