"""Documents that ship with the package: found by name, or read from a file of one's own."""

import os
from importlib import resources
from pathlib import Path
from typing import ClassVar, Self

from spac_repro.documents import yaml_subset
from spac_repro.documents.errors import one_line
from spac_repro.documents.model import Settings
from spac_repro.documents.suggestions import did_you_mean
from spac_repro.documents.validation import validate
from spac_repro.documents.yaml_subset import Document
from spac_repro.errors import UserError


def names(folder: str) -> list[str]:
    """The documents in a folder of the package."""
    entries = (resources.files("spac_repro") / folder).iterdir()
    return sorted(entry.name.removesuffix(".yaml") for entry in entries if entry.name.endswith(".yaml"))


def read(kind: str, folder: str, name: str) -> Document:
    """Read the document of that name in a folder of the package, or a file. `kind` is what such a document is called.

    Raises:
        UserError: there is none (with the nearest name), or it cannot be read.
    """
    known = names(folder)
    if name in known:
        text = (resources.files("spac_repro") / folder / f"{name}.yaml").read_text(encoding="utf-8")
        return yaml_subset.parse(text, f"{kind} {name}")
    if name.endswith((".yaml", ".yml")) or os.path.isfile(name):
        return yaml_subset.read(Path(name), missing_file_remedy=f"name a file, or one of {', '.join(known)}")
    article = "an" if kind[0] in "aeiou" else "a"
    problem = f"unknown {kind} {one_line(name, 100)!r}{did_you_mean(name, known)}"
    raise UserError(one_line(f"{problem}; the {kind}s are {', '.join(known)}, or give {article} {kind} as a YAML file"))


class PackagedDocument(Settings):
    """A kind of document that ships with the package."""

    kind: ClassVar[str]
    folder: ClassVar[str]

    @classmethod
    def names(cls) -> list[str]:
        """Those that ship."""
        return names(cls.folder)

    @classmethod
    def load(cls, name: str) -> Self:
        """Read one by name or file.

        Raises:
            UserError: there is none, or it is not one; with file, line and key.
        """
        document = read(cls.kind, cls.folder, name)
        return validate(cls, document.value, document, missing_key_remedy=f"take one of {cls.folder}/ as a pattern")
