"""Runs in one file: equal bytes, every alteration found, and nothing hostile unpacked."""

import hashlib
import io
import json
import os
import shutil
import stat
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from spac_repro.errors import UserError
from spac_repro.publish import archive_format, archive_verdicts, checklists
from spac_repro.publish.archive import archive
from spac_repro.publish.archive_texts import OPEN, PAPER, PAPER_AUTHORS, Deposit, Facts
from spac_repro.runs import files
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.manifest import SCHEMA
from spac_repro.trust.expected import expected_path

ROOT = Path(__file__).resolve().parents[2]


def make(folder: Path, *, seed: int = 0, method: str = "spac", beta: float = 1.0, value: float = 0.5, recipe: str = "tiny") -> Path:
    """A finished run with hashes of what it wrote: one iterate, weights and training data among it."""
    run = RunFolder(folder)
    score = {
        "task": "gold",
        "metric": "reward",
        "value": value,
        "stderr": 0.01,
        "n": 100,
        "version": "1",
        "note": "",
        "higher_is_better": True,
    }
    contents: dict[Path, Any] = {
        run.iteration(0).scores_file: [score],
        run.iteration(0).samples_file: ["a response", "`another` | one"],
        run.iteration(0).policy / "config.json": {"a": 1},
        run.iteration(0).policy / "model.safetensors": ["weights"] * 100,
        run.iteration(0).dataset_file: ["not really Parquet"],
    }
    settings = {"method": method, "name": recipe, "methods": {method: {"beta": beta}}, "data": {"source": "file"}}
    digest = hashlib.sha256(str(settings).encode()).hexdigest()
    iterates = [{"iteration": 0, "weights_sha256": "w" * 64, "scores": [score]}]
    contents[run.results_file] = {
        "schema": 2, "recipe": recipe, "method": method, "seed": seed, "complete": True, "settings_sha256": digest,
        "weights_sha256": "w" * 64, "harness": "lm_eval 0.4.13", "iterations": iterates,
    }  # fmt: skip
    for path, content in contents.items():
        files.write_json(path, content)
    manifest = {
        "schema": SCHEMA, "recipe": recipe, "method": method, "seed": seed, "settings": settings, "settings_sha256": digest,
        "inputs": {"preferences_sha256": "a" * 64},
        "environment": {"cpu": "x", "gpus": [], "libraries": {}, "source": {"commit": "c0ffee"}, "image": "sha256:beef"},
        "segments": [], "provenance": {}, "equal_bits_claimed": True, "written_metrics": {},
        "written_files": {path.relative_to(folder).as_posix(): files.sha256_file(path) for path in contents},
    }  # fmt: skip
    files.write_json(run.manifest_file, {**manifest, "sha256": files.sha256_json(manifest)})
    files.write_json(run.ro_crate_file, {"@graph": [{"@id": "./", "datePublished": "2026-11-26"}]})
    return folder


def pack(output: Path, *paths: Path, deposit: Deposit | None = None, **options: Any) -> Path:
    archive(paths, output, deposit=deposit or Deposit(), **options)
    return output


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    return pack(tmp_path / "a.zip", make(tmp_path / "runs" / "seed-0"), make(tmp_path / "runs" / "seed-1", seed=1))


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as file:
        return {info.filename: file.read(info) for info in file.infolist()}


def rewrite(path: Path, contents: dict[str, bytes], **info: Any) -> Path:
    """The archive with these members, written as this package writes them but for `info`."""
    with zipfile.ZipFile(path, "w") as file:
        for name, content in contents.items():
            member = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            member.create_system, member.external_attr = 3, (stat.S_IFREG | 0o644) << 16
            for key, value in info.items():
                setattr(member, key, value)
            file.writestr(member, content)
    return path


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        archive_verdicts.verify(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300
    return str(caught.value)


def test_it_holds_what_a_committee_needs_and_opens_without_this_package(packed, tmp_path):
    found = members(packed)
    run = "runs/tiny/spac/seed-0"
    assert {
        f"{run}/{name}" for name in ("manifest.json", "results.json", "iteration-0/scores.json", "iteration-0/samples.json")
    } <= set(found)
    assert {"README.md", "CITATION.cff", "datacite.json", "zenodo.json", "checklists.md", "checklists.json", "archive.json"} <= set(
        found
    )
    assert {"expected_results/tiny.yaml", "requirements/base.lock", "ro-crate-metadata.json", "SHA256SUMS"} <= set(found)
    assert not [name for name in found if "policy" in name or name.endswith("selfplay.parquet")]
    assert found["expected_results/tiny.yaml"] == expected_path("tiny").read_bytes()
    readme = found["README.md"].decode()
    assert "spac-repro train --recipe tiny --method spac --seed 1" in readme
    assert "sha256:beef" in readme
    assert json.loads(found["archive.json"])["runs"][0]["weights_sha256"] == "w" * 64
    shutil.unpack_archive(packed, tmp_path / "out")
    checked = subprocess.run(
        ["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path / "out", capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout) == (0, b"")
    assert len(found["SHA256SUMS"].splitlines()) == len(found) - 1


def test_weights_are_included_when_asked_for(tmp_path):
    path = pack(tmp_path / "a.zip", make(tmp_path / "run"), weights=True)
    assert {"runs/tiny/spac/seed-0/iteration-0/policy/model.safetensors"} <= set(members(path))
    assert archive_verdicts.verify(path).files == len(members(path)) - 1


def test_equal_runs_give_equal_bytes_at_other_times_in_other_places_and_orders(tmp_path, packed):
    b = make(tmp_path / "elsewhere" / "z", seed=0)
    a = make(tmp_path / "elsewhere" / "a", seed=1)
    for index, file in enumerate(sorted((tmp_path / "elsewhere").rglob("*"))):
        os.utime(file, (10**9 + index, 10**9 - index))
        file.chmod(0o700)
    assert pack(tmp_path / "b.zip", a, b).read_bytes() == packed.read_bytes()
    assert pack(tmp_path / "c.zip", b, a, b).read_bytes() == packed.read_bytes()  # named twice: once
    assert pack(tmp_path / "d.zip", tmp_path / "elsewhere").read_bytes() == packed.read_bytes()


def test_runs_of_a_sweep_with_other_settings_and_methods(tmp_path):
    for index, (method, beta) in enumerate((("spac", 1.0), ("spac", 2.0), ("dpo", 1.0))):
        make(tmp_path / "sweep" / f"cell-{index}", method=method, beta=beta)
    path = pack(tmp_path / "a.zip", tmp_path / "sweep")
    places = [entry["folder"] for entry in json.loads(members(path)["archive.json"])["runs"]]
    assert places[0] == "runs/tiny/dpo/seed-0"
    assert len(places) == len(set(places)) == 3
    assert all(place.startswith("runs/tiny/spac/seed-0-") for place in places[1:])
    assert len(archive_verdicts.verify(path).verdicts) == 3


def test_what_cannot_be_archived(tmp_path):
    run = make(tmp_path / "run")
    for paths, message in (
        ((run, make(tmp_path / "copy")), "is the same run as"),
        ((tmp_path / "none",), "no run folder"),
    ):
        with pytest.raises(UserError, match=message):
            pack(tmp_path / "a.zip", *paths)
    with pytest.raises(UserError, match="is about the recipe zephyr-7b, and no run is"):
        pack(tmp_path / "a.zip", run, expected=expected_path("zephyr-7b"))
    RunFolder(run).iteration(0).samples_file.write_text("[]")
    with pytest.raises(UserError, match="it is not what the run wrote"):
        pack(tmp_path / "a.zip", run)
    RunFolder(tmp_path / "copy").results_file.unlink()
    with pytest.raises(UserError, match="the run is unfinished"):
        pack(tmp_path / "a.zip", tmp_path / "copy")
    assert not (tmp_path / "a.zip").exists()
    (tmp_path / "a.zip").write_text("mine")
    with pytest.raises(UserError, match="exists; nothing is overwritten"):
        pack(tmp_path / "a.zip", run)
    assert (tmp_path / "a.zip").read_text() == "mine"


def test_a_link_is_not_followed_into_an_archive(tmp_path):
    run = RunFolder(make(tmp_path / "run"))
    secret = tmp_path / "secret"
    shutil.move(run.ro_crate_file, secret)
    run.ro_crate_file.symlink_to(secret)
    with pytest.raises(UserError, match="a link, or outside the run"):
        pack(tmp_path / "a.zip", run.path)


# Verification


def test_the_archive_of_honest_runs_is_verified_like_the_runs(packed):
    found = archive_verdicts.verify(packed)
    assert found.sha256 == files.sha256_file(packed)
    assert [verdict.recipe for verdict in found.verdicts] == ["tiny"]
    assert "/tmp" not in json.dumps(found.as_json()["verdicts"])


def test_scores_are_compared_with_expected_results(tmp_path):
    row = "{source: p, method: start, iteration: 0, task: gold, metric: reward, value: 0.5, primary: true,\n"
    row += "   tolerance: {value: 0.1, argument: a}}"
    text = f"recipe: own\nsources:\n  p: {{kind: published, citation: c}}\nrows:\n- {row}\n"
    (tmp_path / "own.yaml").write_text(text)
    for value, status, code in ((0.55, "verified", 0), (0.7, "disagrees", 1)):
        path = pack(tmp_path / f"{status}.zip", make(tmp_path / status, recipe="own", value=value), expected=tmp_path / "own.yaml")
        found = archive_verdicts.verify(path)
        assert found.verdicts[0].status == status
        assert f"Verdict when it was archived, this run alone: {status}" in members(path)["README.md"].decode()
        assert found.exit_code == code
        assert found.verdicts[0].expected_file.name == "expected_results/own.yaml"
        assert not found.verdicts[0].notes
    (tmp_path / "mine.yaml").write_text(text + "\n")
    assert archive_verdicts.OTHER_EXPECTED in archive_verdicts.verify(path, tmp_path / "mine.yaml").verdicts[0].notes


def test_every_member_that_is_edited_is_found(packed, tmp_path):
    contents = members(packed)
    for name in contents:
        for edited in (contents[name] + b" ", contents[name][1:]):
            message = refused(rewrite(tmp_path / "b.zip", {**contents, name: edited}))
            assert name in message or name == "SHA256SUMS", message
        assert name in refused(rewrite(tmp_path / "b.zip", {key: value for key, value in contents.items() if key != name}))
    assert "extra is not in SHA256SUMS" in refused(rewrite(tmp_path / "b.zip", {**contents, "extra": b"x"}))
    assert archive_verdicts.verify(rewrite(tmp_path / "b.zip", contents)).files == len(contents) - 1


def test_bytes_before_and_behind_are_found(packed, tmp_path):
    content = packed.read_bytes()
    for spoilt in (b"abcd" + content, content + b"x" * 90, content + b"\0"):
        (tmp_path / "b.zip").write_bytes(spoilt)
        with pytest.raises(UserError, match=r"bytes were added before or behind|not a whole archive"):
            archive_verdicts.verify(tmp_path / "b.zip")


def test_a_bit_that_flips_anywhere_changes_nothing_silently(packed, tmp_path):
    """What does not make the archive unreadable or its content another one is a field that no reader looks at."""
    data, expected = packed.read_bytes(), archive_verdicts.verify(packed)
    damaged = tmp_path / "b.zip"
    for place in range(0, len(data), len(data) // 61):
        damaged.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        try:
            found = archive_verdicts.verify(damaged)
        except UserError:
            assert str(damaged) in refused(damaged)
        else:
            assert found.verdicts == expected.verdicts
    for end in (0, 1, 4, 100, len(data) // 2, len(data) - 1):
        damaged.write_bytes(data[:end])
        assert str(damaged) in refused(damaged)
    damaged.write_bytes(data[:200] + data[600:])  # offsets point before the beginning
    assert str(damaged) in refused(damaged)


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "/evil",
        "a/../../evil",
        "a//b",
        "./a",
        "a/.",
        "a\\b",
        "C:evil",
        "a\x00b",
        "é",
        "a" * 101,
        "/".join("a" * 12),
        "a/",
        " a",
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(packed, tmp_path, name):
    contents = {**members(packed), name: b"evil"}
    with pytest.raises(UserError):
        archive_verdicts.verify(rewrite(tmp_path / "b.zip", contents))
    assert not list(tmp_path.rglob("evil"))


def test_links_bombs_and_doubles_are_refused(packed, tmp_path):
    contents = members(packed)
    path = tmp_path / "b.zip"
    assert "is not a plain, uncompressed file" in refused(rewrite(path, contents, external_attr=(stat.S_IFLNK | 0o777) << 16))
    assert "is not a plain, uncompressed file" in refused(rewrite(path, contents, compress_type=zipfile.ZIP_DEFLATED))
    assert "lies below a file" in refused(rewrite(path, {**contents, "README.md/a": b""}))
    assert "occurs twice" in refused(rewrite(path, {**contents, "readme.MD": b""}))
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("README.md", b"")
        with pytest.warns(UserWarning, match="Duplicate name"):
            file.writestr("README.md", b"")
    assert "occurs twice" in refused(path)
    assert "no SHA256SUMS" in refused(rewrite(path, {"a": b"b"}))


def test_members_that_overlap_are_refused(packed, tmp_path):
    """Two entries of the central directory about the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for index in range(2):
            info = zipfile.ZipInfo(f"f{index}", (1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, (stat.S_IFREG | 0o644) << 16
            file.writestr(info, b"x" * 10_000)
            info.header_offset = 0
        file.filelist[1].header_offset = 0
        file.start_dir = 10_000 + 32
        file.fp.seek(file.start_dir)
        file.fp.truncate()
        file._didModify = True
    (tmp_path / "b.zip").write_bytes(buffer.getvalue())
    assert str(tmp_path / "b.zip") in refused(tmp_path / "b.zip")


def test_a_run_that_was_altered_before_is_found_by_its_manifest(packed, tmp_path):
    contents = members(packed)
    name = "runs/tiny/spac/seed-0/iteration-0/samples.json"
    contents = {key: b"[]" if key == name else value for key, value in contents.items() if key != archive_format.SUMS}
    with (tmp_path / "b.zip").open("wb") as file:
        archive_format.write(file, contents)
    assert f"{name} is not what the run wrote" in refused(tmp_path / "b.zip")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([], "is not the index"),
        ({"runs": []}, "names no runs"),
        ({"runs": [{"folder": "../x"}]}, "is not one of an archive"),
        ({"schema": 99, "runs": [{"folder": "a"}]}, "newer version"),
        ({"runs": [{"folder": "requirements"}]}, "b.zip: requirements has no manifest"),
        (None, "no archive.json"),
    ],
)
def test_an_index_of_something_else_is_refused(packed, tmp_path, index, message):
    contents = {key: value for key, value in members(packed).items() if key not in (archive_format.SUMS, "archive.json")}
    if index is not None:
        contents["archive.json"] = json.dumps(index).encode()
    with (tmp_path / "b.zip").open("wb") as file:
        archive_format.write(file, contents)
    assert message in refused(tmp_path / "b.zip")


# The texts


def test_deposit_metadata_have_what_their_schemas_require(tmp_path):
    deposit = Deposit("Title", ("Doe, Jane",), "CC-BY-4.0")
    found = members(pack(tmp_path / "a.zip", make(tmp_path / "run"), deposit=deposit))
    datacite = json.loads(found["datacite.json"])
    assert set(datacite) >= {"creators", "titles", "publisher", "publicationYear", "types"}  # mandatory in 4.5, but for the DOI
    assert (datacite["publicationYear"], datacite["creators"], datacite["publisher"]) == ("2026", [{"name": "Doe, Jane"}], OPEN)
    zenodo = json.loads(found["zenodo.json"])["metadata"]
    assert set(zenodo) >= {"upload_type", "title", "creators", "description", "access_right", "license"}
    citation = yaml.safe_load(found["CITATION.cff"])
    assert (citation["cff-version"], citation["type"], citation["license"]) == ("1.2.0", "dataset", "CC-BY-4.0")
    jsonschema.validate(
        citation, {"required": ["cff-version", "message", "title", "authors"], "properties": {"authors": {"minItems": 1}}}
    )
    crate = json.loads(found["ro-crate-metadata.json"])["@graph"]
    assert next(node for node in crate if node["@id"] == "./")["hasPart"] == [{"@id": "runs/tiny/spac/seed-0/"}]


def test_the_paper_is_the_one_of_the_citation_file():
    (paper,) = yaml.safe_load((ROOT / "CITATION.cff").read_text())["references"]
    assert paper["title"] == PAPER
    assert [f"{author['family-names']}, {author['given-names']}" for author in paper["authors"]] == list(PAPER_AUTHORS)


def test_checklists_answer_what_runs_can_answer(tmp_path):
    runs = {f"runs/{seed}": RunFolder(make(tmp_path / str(seed), seed=seed)) for seed in (1, 2, 3)}
    unverified = dict.fromkeys(runs, "unverified")
    answers = {item.topic: item.answer for item in checklists.items(Facts.of(runs, weights=False, verdicts=unverified))}
    assert len([topic for topic in answers if topic[0].isdigit()]) == 16
    assert (answers["7 significance"], answers["4 reproducibility"], answers["8 compute"]) == ("yes", "yes", "no")
    assert (answers["available"], answers["complete"], answers["1 claims"]) == ("open", "partly", "open")
    assert (answers["evidence of verification"], answers["consistent"]) == ("no", "yes")
    fewer = checklists.items(Facts.of(dict(list(runs.items())[:2]), weights=False, verdicts=unverified))
    assert next(item.answer for item in fewer if item.topic == "7 significance") == "no"
