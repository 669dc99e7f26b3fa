"""Preference pairs from files or the hub: read row by row, checked, and identified by a fingerprint."""

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

from spac_repro.data import memory_map
from spac_repro.documents import strict_json
from spac_repro.documents.errors import one_line
from spac_repro.documents.strict_json import json_type
from spac_repro.documents.text import decode_utf8
from spac_repro.errors import UnfitEnvironmentError, UserError

Message = dict[str, str]
Messages = tuple[Message, ...]
Record = tuple[str, object]  # where it stands (for messages to the user), and what stands there

JSON_LINES = (".jsonl", ".jsonl.gz")
JSON_ARRAY = (".json", ".json.gz")
PARQUET = (".parquet",)
SUFFIXES = JSON_LINES + JSON_ARRAY + PARQUET
FIELDS = ("prompt", "chosen", "rejected")
HUB_NAME = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(:(?P<split>\w+))?", re.ASCII)


@dataclass(frozen=True)
class Preference:
    """One prompt with the response that was preferred and the one that was not.

    `prompt` holds the messages before the response; a plain-text prompt is one user message.
    `chosen` and `rejected` are the text of the last assistant turn.
    """

    prompt: Messages
    chosen: str
    rejected: str


def read_preferences(source: str, *, revision: str | None = None, limit: int | None = None) -> Sequence[Preference]:
    """Map the preference pairs of `source` in their order, the first `limit` of them if a limit is given.

    `source` is a `.json`, `.jsonl` (either may be gzipped) or `.parquet` file, a folder of such files (all of them, sorted by
    path), a folder written by `datasets.Dataset.save_to_disk`, or a hub data set `OWNER/NAME[:SPLIT]` (split `train` if none is
    named) at `revision`, which a hub data set must have and local data has no use for.

    A row is in one of three formats: plain (three strings); conversational (`prompt`: messages, `chosen` and `rejected`: the
    assistant's message); conversational with the prompt inside `chosen` and `rejected` as their shared leading messages.

    Raises UserError, naming the file and the line or row, for whatever cannot be read as that; UnfitEnvironmentError when the
    hub is out of reach and the data set is not in the cache.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit {limit}: at least one preference pair is needed")
    preferences = _mapped(_preference(row, where) for where, row in islice(_records(source, revision), limit))
    if not preferences:
        raise UserError(f"{source}: is empty; at least one preference pair is needed")
    return preferences


def fingerprint(rows: Sequence[Preference]) -> str:
    """SHA-256 (hex) over the rows in order, each as one line of canonical JSON: the same for equal rows in any format."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(_line(row).encode() + b"\n")
    return digest.hexdigest()


def _line(row: Preference) -> str:
    content = [[[message["role"], message["content"]] for message in row.prompt], row.chosen, row.rejected]
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def _from_line(line: str) -> Preference:
    prompt, chosen, rejected = json.loads(line)
    return Preference(tuple({"role": role, "content": content} for role, content in prompt), chosen, rejected)


def _mapped(rows: Iterable[Preference]) -> Sequence[Preference]:
    import pyarrow as pa

    schema = pa.schema({"row": pa.large_string()})
    lines = (pa.array(map(_line, batch), pa.large_string()) for batch in memory_map.batched(rows))
    batches = (pa.record_batch([column], schema=schema) for column in lines)
    return memory_map.MappedColumn(memory_map.write_table(batches, schema)["row"], lambda value: _from_line(value.as_py()))


# Where the rows come from


def _records(source: str, revision: str | None) -> Iterator[Record]:
    path = Path(source)
    with _reading(source):
        is_file, is_folder = path.is_file(), path.is_dir()
    if is_file:
        return _file_records(path)
    if is_folder:
        return _folder_records(path)
    name = HUB_NAME.fullmatch(source)
    if name is None or source.endswith(SUFFIXES):
        raise UserError(f"{source}: no such file or folder")
    if revision is None:
        raise UserError(f"{source}: no such file or folder; if it is a hub data set, name its revision (a commit hash)")
    return _hub_records(name["name"], name["split"] or "train", revision)


def _file_records(path: Path) -> Iterator[Record]:
    if path.name.endswith(JSON_LINES):
        return _json_lines(path)
    if path.name.endswith(JSON_ARRAY):
        return _json_array(path)
    if path.name.endswith(PARQUET):
        return _parquet_rows(path)
    raise UserError(f"{path}: not a kind of file that is read here ({', '.join(SUFFIXES)})")


def _folder_records(folder: Path) -> Iterator[Record]:
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        yield from _saved_rows(folder)
        return
    paths = sorted(path for path in folder.rglob("*") if path.name.endswith(SUFFIXES) and path.is_file())
    if not paths:
        raise UserError(f"{folder}: holds no preference data ({', '.join(SUFFIXES)})")
    for path in paths:
        yield from _file_records(path)


def _json_lines(path: Path) -> Iterator[Record]:
    with _reading(path), _open(path) as lines:
        for number, line in enumerate(lines, start=1):
            text = decode_utf8(line, str(path), number)
            if text.strip():
                yield f"{path}, line {number}", strict_json.parse(text, str(path), line=number)


def _json_array(path: Path) -> Iterator[Record]:
    with _reading(path), _open(path) as file:
        text = decode_utf8(file.read(), str(path))
    if not text.strip():
        return
    rows = strict_json.parse(text, str(path), list, remedy="the rows are one list; one object a line is called .jsonl")
    for number, row in enumerate(rows, start=1):
        yield f"{path}, row {number}", row


def _parquet_rows(path: Path) -> Iterator[Record]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            columns = [name for name in FIELDS if name in file.schema_arrow.names]
            number = 0
            for batch in file.iter_batches(batch_size=256, columns=columns):
                for row in batch.to_pylist() if columns else [{}] * batch.num_rows:
                    number += 1
                    yield f"{path}, row {number}", row
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        raise UserError(f"{path}: cannot be read as Parquet ({one_line(error)}); write or download it again") from error


def _saved_rows(folder: Path) -> Iterator[Record]:
    import datasets

    try:
        data = datasets.load_from_disk(str(folder))
    except Exception as error:  # whatever a damaged folder makes of the library, the user's remedy is the same
        raise UserError(f"{folder}: cannot be read as a saved data set ({one_line(error)}); save it again") from error
    if isinstance(data, datasets.DatasetDict):
        raise UserError(f"{folder}: holds several splits; name the folder of one of them: {', '.join(sorted(map(str, data)))}")
    yield from _data_set_rows(data, str(folder))


def _hub_records(name: str, split: str, revision: str) -> Iterator[Record]:
    import datasets

    try:
        data = datasets.load_dataset(name, revision=revision)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise UserError(f"{name} at {revision}: the hub has no such data set or revision ({one_line(error)})") from error
    except (ConnectionError, OSError) as error:
        raise UnfitEnvironmentError(
            f"{name} at {revision}: neither in the cache nor to be had from the hub ({one_line(error)}); where there is a "
            f"network, run datasets.load_dataset({name!r}, revision={revision!r}) to fill the cache, or name a local file"
        ) from error
    except Exception as error:
        raise UserError(f"{name} at {revision}: cannot be read as a data set ({one_line(error)})") from error
    if split not in data:
        raise UserError(f"{name} at {revision}: has no split {split}; write {name}:SPLIT, one of {', '.join(map(str, data))}")
    yield from _data_set_rows(data[split], f"{name}:{split}")


def _data_set_rows(data: Any, name: str) -> Iterator[Record]:
    columns = data.select_columns([field for field in FIELDS if field in data.column_names])
    for number, row in enumerate(columns, start=1):
        yield f"{name}, row {number}", row


# From bytes to values


@contextmanager
def _reading(path: Path | str) -> Iterator[None]:
    """Turn what goes wrong while a file is read into one line for the user."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: not a whole gzip file ({one_line(error)}); copy or download it again") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or one_line(error)})") from error


def _open(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


# From values to preferences


def _preference(row: object, where: str) -> Preference:
    if not isinstance(row, dict):
        raise UserError(f"{where}: a row must be an object with {', '.join(FIELDS)}; found {json_type(row)}")
    for field in ("chosen", "rejected"):
        if row.get(field) is None:
            raise UserError(f"{where}: lacks the field {field}")
    chosen_prompt, chosen = _response(row["chosen"], f"{where}: chosen")
    rejected_prompt, rejected = _response(row["rejected"], f"{where}: rejected")
    if chosen_prompt != rejected_prompt:
        raise UserError(f"{where}: chosen and rejected have different prompts; a pair answers one prompt")
    prompt = _prompt(row.get("prompt"), chosen_prompt, where)
    _check_roles(prompt, f"{where}: prompt")
    if chosen == rejected:
        raise UserError(f"{where}: chosen and rejected are the same; remove the row, it states no preference")
    return Preference(prompt, chosen, rejected)


def _response(value: object, where: str) -> tuple[Messages, str]:
    """The messages that a response repeats before its last turn (none in the plain format), and that turn's text."""
    if isinstance(value, str):
        return (), _text(value, where)
    messages = _messages(value, where)
    if messages[-1]["role"] != "assistant":
        raise UserError(f"{where}: the last message must be the assistant's, found role {messages[-1]['role']!r}")
    return messages[:-1], messages[-1]["content"]


def _prompt(value: object, repeated: Messages, where: str) -> Messages:
    if value is None:
        if not repeated:
            raise UserError(f"{where}: lacks the field prompt (and chosen does not begin with one)")
        return repeated
    if isinstance(value, str):
        text = _text(value, f"{where}: prompt")
        if not repeated:
            return ({"role": "user", "content": text},)
        # Published sets differ from their own messages in white space only, so no more than that is forgiven.
        if text.split() not in [message["content"].split() for message in repeated if message["role"] == "user"]:
            raise UserError(f"{where}: prompt is not what the user says in chosen; a pair answers one prompt")
        return repeated
    messages = _messages(value, f"{where}: prompt")
    if repeated and repeated != messages:
        raise UserError(f"{where}: prompt and chosen have different prompts; a pair answers one prompt")
    return messages


def _messages(value: object, where: str) -> Messages:
    if not isinstance(value, list):
        raise UserError(f"{where}: must be text or a list of messages, found {json_type(value)}")
    if not value:
        raise UserError(f"{where}: has no message")
    messages = []
    for number, message in enumerate(value, start=1):
        place = f"{where}, message {number}"
        if not isinstance(message, dict):
            raise UserError(f"{place}: must be an object with role and content, found {json_type(message)}")
        messages.append({key: _text(message.get(key), f"{place}: {key}") for key in ("role", "content")})
    return tuple(messages)


def _check_roles(messages: Messages, where: str) -> None:
    """An optional system message, then user and assistant in turn, the user last."""
    roles = [message["role"] for message in messages]
    turns = roles[1:] if roles[0] == "system" else roles
    if len(turns) % 2 == 0 or turns != (["user", "assistant"] * len(turns))[: len(turns)]:
        shown = ", ".join(one_line(role) for role in roles[:8])
        raise UserError(f"{where}: roles must be user, assistant, … and end with user (system may lead); found {shown}")


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: must be text, found {json_type(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: half a surrogate pair at character {error.start}; it is no Unicode text") from error
    return value
