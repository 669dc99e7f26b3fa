"""A search through an image's own layer for what must not be in it."""

import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

SECRETS = {  # how each begins, and what it looks like
    b"ghp_": rb"ghp_[A-Za-z0-9]{36}",
    b"github_pat_": rb"github_pat_[A-Za-z0-9_]{60}",
    b"hf_": rb"hf_[A-Za-z]{34}\b",
    b"AKIA": rb"(?<![A-Za-z0-9+/])AKIA[0-9A-Z]{16}(?![A-Za-z0-9+/])",
    b"xox": rb"xox[bp]-[0-9]{10}",
    b"-----BEGIN ": rb"-----BEGIN (?:RSA |EC |OPENSSH )?PRIVATE KEY-----\s+[A-Za-z0-9+/=\s]{64}",
}


def search(archive: Path, words: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Where one of the words or a secret stands: in the image's configuration, or in a file of a layer that is not the base's.

    Args:
        archive: an image, as `docker save` writes it.
        words: what else must not be there, as it is.
    """
    wanted = {**{word.encode(): re.escape(word.encode()) for word in words}, **SECRETS}
    with tarfile.open(archive) as image:
        manifest = json.load(image.extractfile("manifest.json"))[0]  # type: ignore[arg-type]
        configuration = image.extractfile(manifest["Config"]).read()  # type: ignore[union-attr]
        yield from (("configuration", found) for found in _found(configuration, wanted))
        for layer in manifest["Layers"][1:]:
            with tarfile.open(fileobj=image.extractfile(layer)) as files:
                for member in files:
                    if member.isfile():
                        content = files.extractfile(member).read()  # type: ignore[union-attr]
                        yield from ((member.name, found) for found in _found(content, wanted))


def _found(content: bytes, wanted: Mapping[bytes, bytes]) -> Iterator[bytes]:
    for beginning, pattern in wanted.items():
        if beginning in content:  # a hundred times as fast as the pattern, over two gigabytes
            yield from (found[0] for found in re.finditer(pattern, content))
