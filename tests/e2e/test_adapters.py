"""Runs that train an adapter: killed and repeated they end with equal bits, and every command knows their iterates."""

import shutil
from pathlib import Path

import cut_down
import pytest
import test_kills
import torch
from safetensors.torch import load_file

from spac_repro import suites
from spac_repro.data import sources
from spac_repro.errors import UserError
from spac_repro.evaluation import model_folder, returned
from spac_repro.model import adapter_folder, policy
from spac_repro.progress import NoProgress
from spac_repro.publish import export
from spac_repro.runs.folder import RunFolder
from spac_repro.trust import comparison

pytestmark = pytest.mark.e2e

ADAPTER = ("policy.adapter.rank=4", "policy.adapter.alpha=8", "policy.adapter.targets=[q_proj, v_proj, down_proj]")
SETTINGS = (*cut_down.SETTINGS, *ADAPTER)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cut_down.trained(tmp_path_factory.mktemp("runs") / "adapter", settings=SETTINGS)


def test_an_iterate_is_an_adapter_on_the_start_policy(run: Path) -> None:
    folder = RunFolder(run)
    assert not adapter_folder.is_adapter(folder.iteration(0).policy)
    for t in (1, 2):
        its = adapter_folder.read(folder.iteration(t).policy)
        assert its.base_sha256 == folder.iteration(0).weights_sha256
        assert adapter_folder.base_folder(its).resolve() == folder.iteration(0).policy
        model, _ = adapter_folder.load(its.path)
        assert policy.weights_sha256(model) == folder.iteration(t).weights_sha256
    first, second = (load_file(folder.iteration(t).policy / "adapter_model.safetensors") for t in (1, 2))
    moved = {name: float((first[name] - second[name]).abs().max()) for name in first}
    assert all(0 < distance < 0.1 for distance in moved.values())  # the second iteration goes on with the first one's adapter
    assert folder.manifest.environment["adapter"].keys() == {"peft"}


def test_the_start_policy_is_the_one_of_a_run_without_an_adapter(run: Path, uninterrupted: Path) -> None:
    ours, theirs = cut_down.results(run)["iterations"], cut_down.results(uninterrupted)["iterations"]
    assert ours[0] == theirs[0]
    assert ours[1] != theirs[1]
    found = comparison.compare(run, uninterrupted)
    told = {difference.key: difference.known.size for difference in found.differences}
    assert any(key.startswith("settings.policy.adapter") and "adapter" in size for key, size in told.items()), told


def test_whole_weights_are_exported(run: Path, tmp_path: Path) -> None:
    merged = export.export(run, tmp_path / "merged")
    model, _ = policy.load(tmp_path / "merged")
    assert merged.merged
    assert policy.weights_sha256(model) == merged.weights_sha256
    start = RunFolder(run).iteration(0)
    copied = export.export(start.policy, tmp_path / "copied")
    assert (copied.merged, copied.weights_sha256) == (False, start.weights_sha256)
    scores = [score(target, run) for target in (run, tmp_path / "merged")]
    assert [each.value for each in scores[0]] == pytest.approx([each.value for each in scores[1]], abs=1e-4)
    with pytest.raises(UserError, match="exists; choose another folder"):
        export.export(run, tmp_path / "merged")


def test_the_average_of_adapters_is_that_of_whole_weights(run: Path, tmp_path: Path) -> None:
    """A mean of products is no product of means: every iterate is merged first."""
    export.average(run, tmp_path / "average")
    for t in (1, 2):
        export.export(RunFolder(run).iteration(t).policy, tmp_path / str(t))
    average, *iterates = (load_file(tmp_path / name / "model.safetensors") for name in ("average", "1", "2"))
    for name, tensor in average.items():
        assert torch.equal(tensor, ((iterates[0][name].double() + iterates[1][name].double()) / 2).float()), name
    found = {each.policy: each.scores for each in returned.score(run, NoProgress())}
    assert found["iterate 2"] != found["average"] != found["average with the start"]


def score(target: Path, run: Path):  # type: ignore[no-untyped-def]
    """The scores of any model folder on the world of a run."""
    world = model_folder._world(RunFolder(run))
    assert world is not None
    folder = model_folder.iterates.find(target)
    model, tokenizer = model_folder._load(folder, None)
    return model_folder.scoring.evaluate(
        policy.use_packed_attention(model, "sdpa").eval(),  # type: ignore[no-untyped-call]
        tokenizer,
        suites.get("mini"),
        tasks=None,
        questions_folder=None,
        world=sources.build_world(world),
        limit=4,
        batch_size=4,
        progress=lambda task, done, total: None,
    )


def test_an_adapter_without_its_base_is_refused(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "iteration-0" / "policy")
    with pytest.raises(UserError, match=r"removed, and the adapter in .* needs it as its base"):
        model_folder.evaluate(
            copy, suites.get("mini"), questions_folder=None, tasks=None, limit=1, batch_size=1, progress=NoProgress()
        )


def test_the_model_card_says_how_to_load_it(run: Path) -> None:
    card = (run / "iteration-2" / "policy" / "README.md").read_text()
    assert "library_name: peft" in card
    assert "PeftModel.from_pretrained(base" in card
    assert "PeftModel" not in (run / "iteration-0" / "policy" / "README.md").read_text()


@pytest.mark.parametrize(
    ("wrong", "code", "words"),
    [
        ("policy.adapter.targets=[q_porj]", 2, "mistral has no linear layers 'q_porj' (did you mean q_proj?)"),
        ("policy.adapter.base_bits=4", 3, "policy.adapter.base_bits is 4, and "),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is(tmp_path: Path, wrong: str, code: int, words: str) -> None:
    done = cut_down.train(tmp_path / "run", settings=(*SETTINGS, wrong))
    assert (done.returncode, done.stderr.count("\n")) == (code, 1)
    assert words in done.stderr
    assert not (tmp_path / "run" / "manifest.json").exists()


@pytest.mark.check
def test_killed_at_every_moment_ends_with_the_same_bits(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = tmp_path / "killed"
    monkeypatch.setattr(cut_down.command, "__kwdefaults__", {"settings": SETTINGS})
    for name in ("generation", "training step", "evaluation", "checkpoint write"):
        test_kills.kill_at(killed, test_kills.MOMENTS[name])
    checkpoint = next((killed / "iteration-2" / "training").glob("step-*/state.safetensors"), None)
    if checkpoint is not None:  # the first one may not have been complete
        assert all("lora_" in name for name in load_file(checkpoint) if name.startswith("model."))
    cut_down.trained(killed, settings=SETTINGS)
    assert cut_down.results(killed) == cut_down.results(run)
    assert (killed / "metrics.jsonl").read_text() == (run / "metrics.jsonl").read_text()


@pytest.mark.check
def test_the_start_as_reference_is_the_model_in_memory_without_its_adapter(uninterrupted: Path, tmp_path: Path) -> None:
    """Log-probabilities of the data's responses in iteration 2 are those of iteration 1, computed again."""
    settings = (*SETTINGS, "methods.spac.reference_policy=start")
    out = cut_down.trained(tmp_path / "start", "--start-from", str(uninterrupted), settings=settings)
    first, second = (RunFolder(out).iteration(t).read_dataset() for t in (1, 2))
    assert first["selfplay_tokens"] != second["selfplay_tokens"]
    for name in ("chosen_reference_logprob", "rejected_reference_logprob"):
        assert second[name] == pytest.approx(first[name], abs=1e-4)  # rows with other self-play responses are packed otherwise


@pytest.mark.check
@pytest.mark.parametrize("method", ["dpo", "sft"])
def test_methods_without_self_play_train_an_adapter_too(uninterrupted: Path, tmp_path: Path, method: str) -> None:
    out = cut_down.trained(tmp_path / method, "--method", method, "--start-from", str(uninterrupted), settings=SETTINGS)
    assert adapter_folder.is_adapter(RunFolder(out).iteration(2).policy)


@pytest.mark.check
def test_a_damaged_adapter_is_not_built_on(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "damaged"
    shutil.copytree(run, copy)
    (copy / "results.json").unlink()
    shutil.rmtree(copy / "iteration-2")
    weights = copy / "iteration-1" / "policy" / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    done = cut_down.train(copy, settings=SETTINGS)
    assert done.returncode == 2
    assert f"{weights}: it is not what the run wrote; remove {weights.parent}" in done.stderr.splitlines()[-1]
