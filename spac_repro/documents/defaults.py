"""Settings that a document leaves out because they were added after it was written."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from spac_repro.documents.validation import bare


def with_defaults(model: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """A tree of settings with every setting at its default that the tree lacks. An optional group that is absent stays absent.

    Nothing is checked: what `model` does not know stays as it is.
    """
    full = dict(values)
    for name, field in model.model_fields.items():
        kind = bare(field.annotation)
        group = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
        if name in full:
            if group and isinstance(full[name], Mapping):
                full[name] = with_defaults(group, full[name])
        elif not field.is_required():
            default = field.get_default(call_default_factory=True)
            if default is not None or not group:
                full[name] = to_jsonable_python(default)
    return full
