"""Documents that ship with the package. Each is found by its name, or read from a user's file."""

import os
from importlib import resources
from pathlib import Path
from typing import ClassVar, Self

from spac_repro.documents import yaml_subset
from spac_repro.documents.base_model import Settings
from spac_repro.documents.errors import one_line
from spac_repro.documents.suggestions import did_you_mean
from spac_repro.documents.validation import validate
from spac_repro.documents.yaml_subset import Document
from spac_repro.errors import UserError


def names(folder: str) -> list[str]:
    """List the documents in a folder of the package, without `.yaml`."""
    entries = (resources.files("spac_repro") / folder).iterdir()
    return sorted(entry.name.removesuffix(".yaml") for entry in entries if entry.name.endswith(".yaml"))


def read(kind: str, folder: str, name: str) -> Document:
    """Read a document of the package by its name, or a file by its path.

    Args:
        kind: What such a document is called in errors, for example "recipe".
        folder: The folder of the package that holds the documents of this kind.
        name: A name in that folder, or a path.

    Raises:
        UserError: There is no such document (with the closest name), or it cannot be read.
    """
    known = names(folder)
    if name in known:
        text = (resources.files("spac_repro") / folder / f"{name}.yaml").read_text(encoding="utf-8")
        return yaml_subset.parse(text, f"{kind} {name}")
    if name.endswith((".yaml", ".yml")) or (os.path.exists(name) and not os.path.isdir(name)):
        return yaml_subset.read(Path(name), missing_file_remedy=f"name a file, or one of {', '.join(known)}")
    article = "an" if kind[0] in "aeiou" else "a"
    problem = f"unknown {kind} {one_line(name, 100)!r}{did_you_mean(name, known)}"
    raise UserError(one_line(f"{problem}; the {kind}s are {', '.join(known)}, or give {article} {kind} as a YAML file"))


class PackagedDocument(Settings):
    """A kind of document of which some ship with the package."""

    kind: ClassVar[str]
    folder: ClassVar[str]

    @classmethod
    def names(cls) -> list[str]:
        """List the documents of this kind that ship with the package."""
        return names(cls.folder)

    @classmethod
    def load(cls, name: str) -> Self:
        """Read and check a document by name or path.

        Raises:
            UserError: There is no such document, or it is not valid; with file, line and key.
        """
        document = read(cls.kind, cls.folder, name)
        return validate(cls, document.value, document, missing_key_remedy=f"see the examples in {cls.folder}/")
