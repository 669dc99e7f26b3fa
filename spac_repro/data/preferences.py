"""Preference pairs from files or the Hugging Face hub: read row by row, checked, and identified by a fingerprint."""

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

from spac_repro.data import memory_map
from spac_repro.documents import parquet, strict_json
from spac_repro.documents.errors import one_line
from spac_repro.documents.strict_json import json_type
from spac_repro.documents.text import check_no_lfs_pointer, decode_utf8
from spac_repro.errors import UnfitEnvironmentError, UserError

Message = dict[str, str]
Messages = tuple[Message, ...]
Record = tuple[str, object]  # the row's location, for error messages, and its content
Records = Generator[Record, None, None]

JSON_LINES = (".jsonl", ".jsonl.gz")
JSON_ARRAY = (".json", ".json.gz")
PARQUET = (".parquet",)
SUFFIXES = JSON_LINES + JSON_ARRAY + PARQUET
FIELDS = ("prompt", "chosen", "rejected")
MAX_LINE_BYTES = 1 << 26  # of a row; larger ones are no text that anyone wrote
HUB_NAME = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(:(?P<split>\w+))?", re.ASCII)


@dataclass(frozen=True)
class Preference:
    """One prompt with a chosen and a rejected response.

    Attributes:
        prompt: the messages before the response; a plain-text prompt is one user message.
        chosen: text of the last assistant turn.
        rejected: text of the last assistant turn.
    """

    prompt: Messages
    chosen: str
    rejected: str


def read_preferences(source: str, *, revision: str | None = None, limit: int | None = None) -> Sequence[Preference]:
    """Read preference pairs in their order; the result is memory-mapped.

    A row has one of TRL's three formats: standard (three strings); conversational (`prompt`: messages, `chosen` and `rejected`: the
    assistant's message); conversational with implicit prompt (the shared leading messages of `chosen` and `rejected`).

    Args:
        source: a `.json`, `.jsonl` (both may be gzipped) or `.parquet` file; a folder of such files (all of them, sorted by path);
            a folder written by `datasets.Dataset.save_to_disk`; or a hub data set `OWNER/NAME[:SPLIT]` (default split: `train`).
        revision: commit hash of a hub data set; ignored for local data.
        limit: read only the first `limit` pairs.

    Raises:
        UserError: a row, file or data set cannot be read; the message names the file and the line or row.
        UnfitEnvironmentError: the hub cannot be reached and the data set is not cached; or the disk is full.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit {limit}: read at least one preference pair")
    with closing(_records(source, revision)) as records:  # a bad row leaves no file open
        preferences = _memory_mapped(_preference(row, where) for where, row in islice(records, limit))
    if not preferences:
        raise UserError(f"{source}: is empty; at least one preference pair is needed")
    return preferences


def fingerprint(rows: Sequence[Preference]) -> str:
    """Compute the SHA-256 of the rows in order, each as one line of canonical JSON; the source's format does not matter."""
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


def _memory_mapped(rows: Iterable[Preference]) -> Sequence[Preference]:
    import pyarrow as pa

    schema = pa.schema({"row": pa.large_string()})
    lines = (pa.array(map(_line, batch), pa.large_string()) for batch in memory_map.batched(rows))
    batches = (pa.record_batch([column], schema=schema) for column in lines)
    return memory_map.MappedColumn(memory_map.write_table(batches, schema)["row"], lambda value: _from_line(value.as_py()))


# Sources


def _records(source: str, revision: str | None) -> Records:
    path = Path(source)
    with _reading(source):
        is_file, is_folder = path.is_file(), path.is_dir()
    if is_file:
        return _file_records(path)
    if is_folder:
        return _folder_records(path)
    if path.exists():
        raise UserError(f"{source}: a pipe or a device, which cannot be read twice; write its content to a file, and name that")
    name = HUB_NAME.fullmatch(source)
    if name is None or source.endswith(SUFFIXES):
        raise UserError(f"{source}: no such file or folder")
    if revision is None:
        raise UserError(f"{source}: no such file or folder; if it is a hub data set, name its revision (a commit hash)")
    return _hub_records(name["name"], name["split"] or "train", revision)


def _file_records(path: Path) -> Records:
    with _reading(path):
        check_no_lfs_pointer(path)
    if path.name.endswith(JSON_LINES):
        return _json_lines(path)
    if path.name.endswith(JSON_ARRAY):
        return _json_array(path)
    if path.name.endswith(PARQUET):
        return _parquet_rows(path)
    raise UserError(f"{path}: unknown file type; use one of {', '.join(SUFFIXES)}")


def _folder_records(folder: Path) -> Records:
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        yield from _saved_rows(folder)
        return
    paths = sorted(path for path in folder.rglob("*") if path.name.endswith(SUFFIXES) and path.is_file())
    if not paths:
        raise UserError(f"{folder}: has no preference data ({', '.join(SUFFIXES)})")
    for path in paths:
        yield from _file_records(path)


def _json_lines(path: Path) -> Records:
    with _reading(path), _open(path) as lines:
        for number, line in enumerate(iter(lambda: lines.readline(MAX_LINE_BYTES + 1), b""), start=1):
            _check_size(line, MAX_LINE_BYTES, f"{path}, line {number}")
            text = decode_utf8(line, str(path), number)
            if text.strip():
                yield f"{path}, line {number}", strict_json.parse(text, str(path), line=number)


def _json_array(path: Path) -> Records:
    with _reading(path), _open(path) as file:
        data = file.read(strict_json.MAX_BYTES + 1)
    _check_size(data, strict_json.MAX_BYTES, str(path), remedy="; write one object a line, into a file named .jsonl")
    text = decode_utf8(data, str(path))
    if not text.strip():
        return
    rows = strict_json.parse(text, str(path), list, remedy="the rows must be one list; name a file with one object a line .jsonl")
    for number, row in enumerate(rows, start=1):
        yield f"{path}, row {number}", row


def _check_size(data: bytes, limit: int, where: str, remedy: str = "") -> None:
    """A short compressed file may unfold to more than the memory holds."""
    if len(data) > limit:
        raise UserError(f"{where}: larger than {limit:,} bytes{remedy or '; check that this is the right file'}")


def _parquet_rows(path: Path) -> Records:
    for number, row in enumerate(parquet.rows(path, FIELDS), start=1):
        yield f"{path}, row {number}", row


def _saved_rows(folder: Path) -> Records:
    import datasets

    try:
        data = datasets.load_from_disk(str(folder))
    except Exception as error:  # damage raises many kinds of exceptions; the remedy is the same
        raise UserError(f"{folder}: cannot be read as a saved data set ({one_line(error)}); save it again") from error
    if isinstance(data, datasets.DatasetDict):
        raise UserError(f"{folder}: has several splits; name the folder of one of them: {', '.join(sorted(map(str, data)))}")
    yield from _data_set_rows(data, str(folder))


def _hub_records(name: str, split: str, revision: str) -> Records:
    import datasets

    try:
        data = datasets.load_dataset(name, revision=revision)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise UserError(f"{name} at {revision}: the hub has no such data set or revision ({one_line(error)})") from error
    except (ConnectionError, OSError) as error:
        raise UnfitEnvironmentError(
            f"{name} at {revision}: not cached and cannot be downloaded ({one_line(error)}); on a machine with a "
            f"network, run datasets.load_dataset({name!r}, revision={revision!r}) to fill the cache, or name a local file"
        ) from error
    except Exception as error:
        raise UserError(f"{name} at {revision}: cannot be read as a data set ({one_line(error)})") from error
    if split not in data:
        raise UserError(f"{name} at {revision}: has no split {split}; write {name}:SPLIT, one of {', '.join(map(str, data))}")
    yield from _data_set_rows(data[split], f"{name}:{split}")


def _data_set_rows(data: Any, name: str) -> Records:
    from datasets.features.features import require_decoding

    for field in FIELDS:  # an Image column would be decoded, and its path may be a URL
        if field in data.column_names and require_decoding(data.features[field]):
            raise UserError(f"{name}: the column {field} holds {type(data.features[field]).__name__}, not text; save it as text")
    columns = data.select_columns([field for field in FIELDS if field in data.column_names])
    for number, row in enumerate(columns, start=1):
        yield f"{name}, row {number}", row


# Files


@contextmanager
def _reading(path: Path | str) -> Iterator[None]:
    """Turn errors of reading a file into errors for the user."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: a truncated or damaged gzip file ({one_line(error)}); copy or download it again") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or one_line(error)})") from error


def _open(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


# Rows


def _preference(row: object, where: str) -> Preference:
    if not isinstance(row, dict):
        raise UserError(f"{where}: a row must be an object with {', '.join(FIELDS)}; found {json_type(row)}")
    for field in ("chosen", "rejected"):
        if row.get(field) is None:
            raise UserError(f"{where}: the field {field} is missing")
    chosen_prompt, chosen = _response(row["chosen"], f"{where}: chosen")
    rejected_prompt, rejected = _response(row["rejected"], f"{where}: rejected")
    if chosen_prompt != rejected_prompt:
        raise UserError(f"{where}: chosen and rejected have different prompts; both must answer the same prompt")
    prompt = _prompt(row.get("prompt"), chosen_prompt, where)
    _check_roles(prompt, f"{where}: prompt")
    if chosen == rejected:
        raise UserError(f"{where}: chosen and rejected are equal, which states no preference; remove the row")
    return Preference(prompt, chosen, rejected)


def _response(value: object, where: str) -> tuple[Messages, str]:
    """The messages before a response's last turn (none in the standard format), and that turn's text."""
    if isinstance(value, str):
        return (), _text(value, where)
    messages = _messages(value, where)
    if messages[-1]["role"] != "assistant":
        raise UserError(f"{where}: the last message must be the assistant's, found role {messages[-1]['role']!r}")
    return messages[:-1], messages[-1]["content"]


def _prompt(value: object, implicit: Messages, where: str) -> Messages:
    if value is None:
        if not implicit:
            raise UserError(f"{where}: the field prompt is missing, and chosen does not begin with one")
        return implicit
    if isinstance(value, str):
        text = _text(value, f"{where}: prompt")
        if not implicit:
            return ({"role": "user", "content": text},)
        # In published data sets the two differ in white space only, so only that is tolerated.
        if text.split() not in [message["content"].split() for message in implicit if message["role"] == "user"]:
            raise UserError(f"{where}: prompt is not a user message of chosen; both must be the same prompt")
        return implicit
    messages = _messages(value, f"{where}: prompt")
    if implicit and implicit != messages:
        raise UserError(f"{where}: prompt and chosen have different prompts; they must be the same")
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
    """Check the roles: an optional system message, then user and assistant in turn, the user last."""
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
        raise UserError(f"{where}: an unpaired surrogate at character {error.start}; it is no Unicode text") from error
    return value
