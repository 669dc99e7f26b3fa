"""A run of a chat model whose end of a turn is not its tokenizer's end-of-sequence."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cut_down
import pytest
from chat_families import FAMILIES, make_model, make_tokenizer

from spac_repro import pipeline, recipes
from spac_repro.data import dataset, hub, sources
from spac_repro.data.stop_tokens import stop_tokens
from spac_repro.model import generation_config, policy
from spac_repro.progress import MessagesOnly
from spac_repro.recipe import Recipe
from spac_repro.runs.folder import RunFolder

pytestmark = pytest.mark.e2e

FAMILY = FAMILIES["gemma, its turn end in the template only"]
TOKENIZER = make_tokenizer(FAMILY.template, FAMILY.eos)
STOPS = stop_tokens(TOKENIZER, chat=True)
LONGEST = 24
POLICY = {"source": "hub", "name": "lab/chat", "revision": "0" * 40, "architecture": None, "num_parameters": 1000}
SETTINGS = (
    *cut_down.SETTINGS[2:],
    "data.prompt_template=chat",
    "data.max_prompt_tokens=60",
    f"data.max_response_tokens={LONGEST}",
    "training.iterations=1",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """One iteration, with gold rewards and held-out preferences."""
    folder = tmp_path_factory.mktemp("chat")
    policy.save(make_model(FAMILY, TOKENIZER), TOKENIZER, folder / "model", stop_token_ids=[])
    its = recipes.load("tiny", overrides=SETTINGS)
    values = its.recipe.model_dump(mode="json")
    values["policy"] |= POLICY
    values["evaluation"] |= {"suite": "none", "tasks": None, "limit": None}
    its = replace(its, recipe=Recipe.model_validate({**values, "supervised_start": None}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub, "snapshot", lambda name, revision, **_: folder / "model")
        read = sources.read(its, preferences=None, questions=None)
        pipeline.train(its, folder / "run", read, allow_changed_environment=False, progress=MessagesOnly())
    return RunFolder.open(folder / "run")


def check_ends(responses: Sequence[Sequence[int]], allowed: Sequence[int]) -> None:
    """Each response ends with one stop token that is allowed, or at the limit."""
    for response in responses:
        assert not {*response[:-1]} & {*STOPS.ids}
        assert response[-1] in allowed or (len(response) == LONGEST and response[-1] not in STOPS.ids)


@pytest.mark.parametrize("file", ["selfplay", "heldout"])
def test_every_response_ends_once(run: RunFolder, file: str) -> None:
    path = run.iteration(1).dataset_file if file == "selfplay" else run.iteration(0).heldout_file
    data = dataset.read(path, reference_sha256=run.iteration(0).weights_sha256, remedy="")
    for name in ("chosen", "rejected"):
        check_ends(data.responses[name], [STOPS.end])
    selfplay = data.responses["selfplay"]
    check_ends(selfplay, STOPS.ids)
    assert STOPS.end in {response[-1] for response in selfplay}  # there are some to be looked at


def test_every_iterate_stops_at_the_same_tokens(run: RunFolder) -> None:
    for t in (0, 1):
        model, _ = policy.load(run.iteration(t).policy)
        assert set(generation_config.stop_token_ids(model)) == set(STOPS.ids)
        assert model.generation_config.repetition_penalty == 1.05


def test_the_manifest_records_them(run: RunFolder) -> None:
    assert run.manifest.inputs["stop_token_ids"] == list(STOPS.ids)


def test_an_end_of_sequence_alone_is_not_recorded(uninterrupted: Path) -> None:
    assert "stop_token_ids" not in RunFolder.open(uninterrupted).manifest.inputs
