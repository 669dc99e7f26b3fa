"""Sweeps and cluster profiles on disk: YAML that is checked, and found by name or by file."""

import difflib
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml
from pydantic import ValidationError

from spac_repro.errors import UserError
from spac_repro.recipe import Settings


class Document(Settings):
    """A kind of YAML file that ships in launchers/<kind>s/."""

    kind: ClassVar[str]

    @classmethod
    def names(cls) -> list[str]:
        """Those that ship with the package."""
        folder = resources.files("spac_repro") / "launchers" / f"{cls.kind}s"
        return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))

    @classmethod
    def load(cls, name: str) -> Self:
        """Read one by name or file.

        Raises:
            UserError: there is none, it is not YAML, or a key or value is wrong.
        """
        where, text = cls._read(name)
        try:
            tree = yaml.safe_load(text)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f", line {mark.line + 1}" if mark else ""
            raise UserError(f"{where}{line}: not YAML ({getattr(error, 'problem', None) or 'it cannot be read'})") from None
        if not isinstance(tree, dict):
            raise UserError(f"{where}: not a {cls.kind}: a mapping is wanted; take one of launchers/{cls.kind}s/ as a pattern")
        return cls._check(where, tree)

    @classmethod
    def _read(cls, name: str) -> tuple[str, str]:
        if name in cls.names():
            return f"{cls.kind} {name}", (resources.files("spac_repro") / "launchers" / f"{cls.kind}s" / f"{name}.yaml").read_text()
        path = Path(name)
        if path.suffix in (".yaml", ".yml") or path.is_file():
            try:
                return str(path), path.read_text()
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"cannot read the {cls.kind} {path}: {getattr(error, 'strerror', None) or error}") from None
        close = difflib.get_close_matches(name, cls.names(), n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise UserError(f"unknown {cls.kind} {name!r}{hint}; there are {', '.join(cls.names())}, or give a YAML file")

    @classmethod
    def _check(cls, where: str, tree: dict[str, Any]) -> Self:
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            if first["type"] == "extra_forbidden":
                close = difflib.get_close_matches(str(first["loc"][-1]), list(cls.model_fields), n=1)
                raise UserError(f"{where}: unknown key {key!r}{f' (did you mean {close[0]}?)' if close else ''}") from None
            if first["type"] == "missing":
                raise UserError(f"{where}: {key}: missing") from None
            given = "" if isinstance(first["input"], dict) else f" (given {first['input']!r})"
            raise UserError(f"{where}: {key or cls.kind}: {first['msg'].removeprefix('Value error, ')}{given}") from None
