"""Fill in settings that a document lacks because they were added after it was written."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from spac_repro.documents.validation import unwrap_optional


def fill_defaults(model: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a tree of settings and set every missing setting to its default. A missing optional group stays missing.

    Nothing is checked: keys that `model` does not know stay as they are.
    """
    full = dict(values)
    for name, field in model.model_fields.items():
        annotation = unwrap_optional(field.annotation)
        group = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
        if name in full:
            if group and isinstance(full[name], Mapping):
                full[name] = fill_defaults(group, full[name])
        elif not field.is_required():
            default = field.get_default(call_default_factory=True)
            if default is not None or not group:
                full[name] = to_jsonable_python(default)
    return full
