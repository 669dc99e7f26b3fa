"""What a registry's entry names is found, or its absence is said in one line."""

import math

import pytest

from spac_repro import engines, methods
from spac_repro.errors import UserError
from spac_repro.registry import import_object


@pytest.mark.parametrize("place", ["math:nothing", "nowhere:pi", "math"])
def test_what_there_is_not_is_refused(place):
    with pytest.raises(UserError, match=f"{place} cannot be imported") as caught:
        import_object(place)
    assert "\n" not in str(caught.value)


def test_what_there_is_is_found():
    assert import_object("math:pi") == math.pi
    for method in methods.all_methods():
        assert callable(method.load_loss())
    for name in engines.names():
        assert callable(import_object(engines.get(name).implementation))


def test_every_method_names_its_source_on_one_line():
    for method in methods.all_methods():
        assert method.described == f"{method.summary} ({method.citation})"
        assert "\n" not in method.described
        assert method.name == "sft" or "arXiv " in method.citation
