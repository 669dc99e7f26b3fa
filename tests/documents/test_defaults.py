"""Settings that a document leaves out."""

from pydantic import Field

from spac_repro.documents.base_model import Settings
from spac_repro.documents.defaults import fill_defaults


class Inner(Settings):
    x: int
    y: float = 0.5


class Own(Settings):
    z: tuple[int, ...] = (1, 2)


class Outer(Settings):
    a: int
    b: str | None = None
    inner: Inner
    maybe: Inner | None = None
    own: Own = Own()
    made: list[int] = Field(default_factory=lambda: [3])


def test_every_default_that_is_left_out_is_filled_in():
    assert fill_defaults(Outer, {"a": 1, "inner": {"x": 2}}) == {
        "a": 1,
        "b": None,
        "inner": {"x": 2, "y": 0.5},
        "own": {"z": [1, 2]},
        "made": [3],
    }


def test_what_stands_there_stays_and_what_must_be_given_stays_missing():
    tree = {"inner": 3, "maybe": {"x": 1}, "own": {"z": []}, "unknown": {"k": 1}, "b": "b", "made": None}
    assert fill_defaults(Outer, tree) == {**tree, "maybe": {"x": 1, "y": 0.5}}
    assert tree["maybe"] == {"x": 1}
