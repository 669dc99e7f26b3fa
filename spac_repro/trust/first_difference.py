"""Where two runs first part: the first difference in the order in which a run is computed, not the list of all that follow from it.

    data rows → per iteration: self-play → reference log-probabilities → optimiser steps → weights → scores

Scores feed nothing, so they are followed apart: a run may part in a score and go on with equal weights.
"""

import json
import math
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spac_repro.documents import strict_json
from spac_repro.errors import UserError
from spac_repro.runs import files as runs
from spac_repro.runs.folder import RunFolder

CHUNK = 4 * 2**20  # bytes of a weight file in memory at once
RESPONSES = ("selfplay", "chosen", "rejected")


@dataclass(frozen=True)
class Parting:
    """The first difference of two runs, and where it stands."""

    stage: str  # "data", "self-play", "reference", "training", "weights", "scores"
    iteration: int | None
    place: str  # "row 7", "step 3", a tensor's name, "gold reward"
    what: str  # "learning_rate", "rejected", …
    a: str
    b: str
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        where = ", ".join(
            part for part in ("" if self.iteration is None else f"iteration {self.iteration}", self.stage, self.place) if part
        )
        return f"{where}: {self.what} is {self.a} in A and {self.b} in B" + (f" ({self.note})" if self.note else "")


@dataclass(frozen=True)
class Walk:
    """What was found on the way through two runs."""

    training: Parting | None  # the first difference of what later stages are computed from
    scores: Parting | None  # the first difference of a score, where it is not explained by the one above
    equal: str  # how far both were seen to be equal, in words
    unfinished: tuple[str, ...]  # what one run has and the other lacks
    read: int  # bytes of weights that were read


def walk(a: Path, b: Path) -> Walk:
    """Follow two runs in the order of computation to where they first part.

    Raises:
        UserError: a file of either is damaged.
    """
    search = _Search(a, b)
    training = next((parting for parting in search.training() if parting), None)
    scores = next((parting for parting in search.scores() if parting), None)
    # The data are first used in iteration 1; a score of the start that differs has a cause of its own.
    if training and scores and (1 if training.iteration is None else training.iteration) <= (scores.iteration or 0):
        scores = None  # what comes after the parting differs because of it
    return Walk(training, scores, search.equal or "nothing", tuple(dict.fromkeys(search.unfinished)), search.read)


class _Search:
    """One pass over two run folders."""

    def __init__(self, a: Path, b: Path) -> None:
        self.folders = (a, b)
        self.lines = [RunFolder(folder).metrics() for folder in self.folders]
        self.last = max((_iterations(folder) for folder in self.folders), default=0)
        self.complete = [(folder / "results.json").exists() for folder in self.folders]
        self.equal = ""
        self.unfinished: list[str] = []
        self.read = 0

    def training(self) -> Iterator[Parting | None]:
        yield self._rows(1, ("prompt", "chosen", "rejected"), "data")
        for t in range(self.last + 1):
            if t > 0:
                yield self._rows(t, ("selfplay",), "self-play")
                yield self._rows(t, tuple(f"{name}_reference_logprob" for name in RESPONSES), "reference")
            yield self._steps(t)
            yield self._weights(t)

    def scores(self) -> Iterator[Parting | None]:
        for t in range(self.last + 1):
            if files := self._both(f"iteration-{t}/scores.json", f"scores of iteration {t}"):
                yield _first_score(t, *(scores_of(file) for file in files))

    def _both(self, name: str, what: str) -> list[Path] | None:
        """A file of both runs; None where one lacks it, which is said if the other has it."""
        files = [folder / name for folder in self.folders]
        there = [file.exists() for file in files]
        if any(there) and not all(there):
            self.unfinished.append(f"{'AB'[there.index(False)]} has no {what}")
        return files if all(there) else None

    def _rows(self, t: int, columns: Sequence[str], stage: str) -> Parting | None:
        """The first row of iteration t's triples in which one of the columns differs."""
        files = self._both(f"iteration-{t}/selfplay.parquet", f"triples of iteration {t}")
        if not files:
            return None
        tables = [read_columns(file) for file in files]
        iteration = None if stage == "data" else t
        for column in columns:
            if (column in tables[0]) != (column in tables[1]):
                return Parting(
                    stage, iteration, "every row", column, *("there" if column in table else "absent" for table in tables)
                )
        columns = [column for column in columns if column in tables[0]]
        if stage == "data":
            return _first_pair(*tables)
        for row in range(min(len(table["prompt"]) for table in tables)):
            for column in columns:
                values = [table[column][row] for table in tables]
                if values[0] != values[1] or _tokens(tables[0], column, row) != _tokens(tables[1], column, row):
                    return Parting(stage, iteration, f"row {row + 1}", column, *map(_shown, values))
        if columns:
            self.equal = f"{stage} of iteration {t}"
        return None

    def _steps(self, t: int) -> Parting | None:
        """The first optimiser step of iteration t in which a metric differs, and the first such metric of it."""
        steps = [{line["step"]: line for line in lines if line["iteration"] == t} for lines in self.lines]
        for step in sorted(steps[0].keys() & steps[1].keys()):
            a, b = steps[0][step], steps[1][step]
            for name in (*a, *(name for name in b if name not in a)):
                if not _same(a.get(name), b.get(name)):
                    return Parting("training", t, f"step {step}", name, *(_shown(each.get(name)) for each in (a, b)))
            self.equal = f"step {step} of iteration {t}"
        counts = [max(each, default=0) for each in steps]
        if counts[0] == counts[1]:
            return None
        shorter = counts.index(min(counts))
        if (self.folders[shorter] / f"iteration-{t}" / "policy").exists():
            return Parting("training", t, f"step {min(counts) + 1}", "the number of steps", *map(str, counts))
        self.unfinished.append(f"{'AB'[shorter]} has no step {min(counts) + 1} of iteration {t}")
        return None

    def _weights(self, t: int) -> Parting | None:
        """The first tensor of iterate t that differs. Weights whose hashes agree are not read; no tensor is read twice."""
        folders = self._both(f"iteration-{t}/policy", f"weights of iteration {t}")
        if not folders:
            return None
        hashes = [fingerprint(folder) for folder in folders]
        if hashes[0] is not None and hashes[0] == hashes[1]:
            self.equal = f"weights of iterate {t}"
            return None
        parting, read = first_tensor(*folders, iteration=t)
        self.read += read
        if parting is None:
            self.equal = f"weights of iterate {t}"
        return parting


def _iterations(folder: Path) -> int:
    """The last iteration that left anything."""
    found = [int(match[1]) for entry in folder.iterdir() if (match := re.fullmatch(r"iteration-(\d+)", entry.name))]
    return max(found, default=0)


# Data rows


def read_columns(file: Path) -> dict[str, list[Any]]:
    """The columns of a Parquet file.

    Raises:
        UserError: the file is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as parquet:  # read_table brings pandas in, for half a second
            return dict(parquet.read().to_pydict())
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file} is damaged ({str(error).splitlines()[0]}); remove it and repeat the run's command") from None


def _first_pair(a: dict[str, list[Any]], b: dict[str, list[Any]]) -> Parting | None:
    """The first preference that differs, and in how many and in what way the two sets of rows differ."""
    pairs = [list(zip(table["prompt"], table["chosen"], table["rejected"], strict=True)) for table in (a, b)]
    if pairs[0] == pairs[1]:
        for row in range(len(pairs[0])):
            for name in ("prompt", "chosen", "rejected"):
                x, y = (_tokens(table, name, row) for table in (a, b))
                if x != y:
                    what = f"the {name}'s tokens"
                    return Parting("data", None, f"row {row + 1}", what, _shown(x), _shown(y), "the texts are equal")
        return None
    common = min(map(len, pairs))
    differing = [row for row in range(common) if pairs[0][row] != pairs[1][row]]
    if not differing:
        return Parting("data", None, f"row {common + 1}", "the number of rows", *(str(len(each)) for each in pairs))
    row = differing[0]
    if sorted(pairs[0]) == sorted(pairs[1]):
        note = f"the same rows in another order: {len(differing)} of {common} are elsewhere"
    else:
        note = f"{len(differing)} of {common} rows differ"
    one, other = pairs[0][row], pairs[1][row]
    if one[0] == other[0] and one[1:] == other[:0:-1]:
        return Parting(
            "data",
            None,
            f"row {row + 1}",
            "the preferred response",
            _shown(one[1]),
            _shown(other[1]),
            f"the label is flipped; {note}",
        )
    column = next(place for place in range(3) if one[place] != other[place])
    texts = (one[column], other[column])
    place = next((i for i, (c, d) in enumerate(zip(*texts, strict=False)) if c != d), min(map(len, texts)))
    name = ("prompt", "chosen", "rejected")[column]
    shown = [_shown(f"{'…' if place > 20 else ''}{text[max(0, place - 20) :]}") for text in texts]
    return Parting("data", None, f"row {row + 1}", name, shown[0], shown[1], f"from character {place + 1} on; {note}")


def _tokens(table: dict[str, list[Any]], column: str, row: int) -> Any:
    return table[f"{column}_tokens"][row] if f"{column}_tokens" in table else None


# Scores


def scores_of(file: Path) -> list[dict[str, Any]]:
    """The scores of one iterate.

    Raises:
        UserError: the file is damaged.
    """
    found = runs.read_json(file)
    if not isinstance(found, list) or not all(
        isinstance(score, dict) and {"task", "metric", "value"} <= score.keys() for score in found
    ):
        raise UserError(f"{file}: not a list of scores; remove it and repeat the run's command")
    return found


def _first_score(t: int, a: list[dict[str, Any]], b: list[dict[str, Any]]) -> Parting | None:
    others = {(score["task"], score["metric"]): score["value"] for score in b}
    for score in a:
        key = (score["task"], score["metric"])
        if key in others and not _same(score["value"], others[key]):
            return Parting("scores", t, "", " ".join(key), _shown(score["value"]), _shown(others[key]))
    return None


# Weights

SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies."""

    file: Path
    begin: int
    bytes: int
    dtype: str
    shape: tuple[int, ...]


def fingerprint(policy: Path) -> str | None:
    """The hash that was written beside the weights; None where there is none."""
    file = policy / "fingerprint.json"
    return str(runs.read_json(file).get("weights_sha256")) if file.exists() else None


def tensors(policy: Path) -> dict[str, Stored]:
    """The tensors of a model folder by name, over all its shards, from the files' headers alone.

    Raises:
        UserError: a file is not safetensors, or is cut off.
    """
    found: dict[str, Stored] = {}
    for file in sorted(policy.glob("*.safetensors")):
        try:
            with file.open("rb") as stream:
                (length,) = struct.unpack("<Q", stream.read(8))
                if length > file.stat().st_size:
                    raise ValueError("its header is longer than the file")
                header = strict_json.parse(stream.read(length), f"{file}, its header", dict)
            header.pop("__metadata__", None)
            for name, entry in header.items():
                begin, end = entry["data_offsets"]
                found[name] = Stored(file, 8 + length + begin, end - begin, entry["dtype"], tuple(entry["shape"]))
                if 8 + length + end > file.stat().st_size:
                    raise ValueError(f"{name} lies beyond its end")
        except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
            raise UserError(
                f"{file}: not safetensors, or cut off ({error}); remove {policy.parent} and repeat the run's command"
            ) from None
    return found


def order(name: str) -> tuple[int, list[int], str]:
    """Sorts tensors as a forward pass meets them: embedding, layers by number, norm, output."""
    stage = 0 if "embed" in name else 3 if "lm_head" in name else 1 if re.search(r"\.\d+\.", name) else 2
    return stage, [int(number) for number in re.findall(r"\.(\d+)\.", name)], name


def first_tensor(a: Path, b: Path, *, iteration: int) -> tuple[Parting | None, int]:
    """The first tensor in which two model folders differ, and how many bytes were read to find it."""
    stored = [tensors(folder) for folder in (a, b)]
    read = 0
    for name in sorted({*stored[0], *stored[1]}, key=order):
        if any(name not in each for each in stored):
            return Parting(
                "weights", iteration, name, "the tensor", *("there" if name in each else "absent" for each in stored)
            ), read
        x, y = (each[name] for each in stored)
        if (x.dtype, x.shape) != (y.dtype, y.shape):
            return Parting("weights", iteration, name, "the tensor", *(f"{each.dtype} {list(each.shape)}" for each in (x, y))), read
        read += 2 * x.bytes
        if difference := _difference(x, y):
            return Parting("weights", iteration, name, *difference), read
    return None, read


def _difference(x: Stored, y: Stored) -> tuple[str, str, str, str] | None:
    """The first element that differs, its two values, and how many others do; None where all bytes are equal."""
    import numpy as np

    size = SIZES.get(x.dtype, 1)
    first: tuple[int, str, str] | None = None
    count, largest = 0, 0.0
    with x.file.open("rb") as one, y.file.open("rb") as other:
        one.seek(x.begin)
        other.seek(y.begin)
        for begin in range(0, x.bytes, CHUNK):
            parts = [stream.read(min(CHUNK, x.bytes - begin)) for stream in (one, other)]
            if parts[0] == parts[1]:
                continue
            cells = [np.frombuffer(part, np.uint8).reshape(-1, size) for part in parts]
            differs = (cells[0] != cells[1]).any(axis=1)
            values = [_floats(part, x.dtype) for part in parts]
            with np.errstate(all="ignore"):
                largest = max(largest, float(np.nanmax(np.abs(values[0][differs] - values[1][differs]), initial=0.0)))
            if first is None:
                place = int(differs.argmax())
                first = (begin // size + place, f"{values[0][place]:.9g}", f"{values[1][place]:.9g}")
            count += int(differs.sum())
    if first is None:
        return None
    elements = math.prod(x.shape)
    return (f"element {first[0]}", first[1], first[2], f"{count} of {elements} elements differ, by {largest:.2g} at most")


def _floats(content: bytes, dtype: str) -> Any:
    """The elements of a piece of a tensor, in fp64 where they are numbers."""
    import numpy as np

    if dtype == "BF16":  # the upper half of an fp32
        return (np.frombuffer(content, "<u2").astype("<u4") << 16).view("<f4").astype(np.float64)
    kinds = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1"}
    return np.frombuffer(content, kinds.get(dtype, "u1")).astype(np.float64)


# Values


def _same(a: Any, b: Any) -> bool:
    return bool(a == b) or (isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b))


def _shown(value: Any, longest: int = 60) -> str:
    """A value in a line: text in quotes and cut, numbers whole."""
    if value is None:
        return "absent"
    if isinstance(value, float | int):
        return f"{value:.9g}"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= longest else text[: longest - 1] + "…"
