"""The supervised start's loss, against log-probabilities from the slow implementation: responses alone, and several in a row."""

import pytest
import torch

from spac_repro import recipes, start_policy
from spac_repro.errors import UserError
from spac_repro.model import policy
from spac_repro.model.policy import Policy
from spac_repro.policy_settings import ArchitectureSettings, PolicySettings
from spac_repro.runs import files
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.manifest import SCHEMA, Manifest

DEMONSTRATIONS = [("copy:bhad=", "bhad"), ("add:12+7=", "19"), ("choose:bhad=", "A"), ("sort:ca=", "acc"), ("copy:j=", "j")] * 2
UNIT = 1 + sum(len(response) for _, response in DEMONSTRATIONS) / len(DEMONSTRATIONS)
ROWS = [3, 0, 7, 1, 2, 9, 4, 5]


@pytest.fixture(scope="module")
def made(one_thread):
    shape = ArchitectureSettings(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=None,
        max_position_embeddings=256,
    )
    settings = PolicySettings(
        source="random",
        name="m",
        revision=None,
        num_parameters=None,
        architecture=shape,
        dtype="float32",
        attn_implementation="sdpa",
    )
    model, tokenizer = policy.create_initial(settings, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)  # far from uniform
    return model.eval(), tokenizer


def tokens(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids


def test_alone_each_response_is_learned_with_its_end(made, slow_logprob):
    model, tokenizer = made
    losses, details = start_policy.make_objective(
        Policy(model),
        tokenizer=tokenizer,
        end_token_id=tokenizer.eos_token_id,
        demonstrations=DEMONSTRATIONS,
        few_shot_fraction=0.0,
    )(ROWS)
    assert details == {}
    with torch.no_grad():
        for loss, i in zip(losses, ROWS, strict=True):
            prompt, response = DEMONSTRATIONS[i]
            expected = -slow_logprob(
                model,
                [tokenizer.bos_token_id, *tokens(tokenizer, prompt)],
                [*tokens(tokenizer, response), tokenizer.eos_token_id],
            )
            assert loss.item() == pytest.approx(expected.item() / UNIT, rel=1e-4)


def test_together_responses_and_line_breaks_are_learned_and_prompts_are_not(made, slow_logprob):
    model, tokenizer = made
    losses, _ = start_policy.make_objective(
        Policy(model),
        tokenizer=tokenizer,
        end_token_id=tokenizer.eos_token_id,
        demonstrations=DEMONSTRATIONS,
        few_shot_fraction=1.0,
    )(ROWS)
    assert len(losses) == 2  # eight demonstrations, at most six in a row
    with torch.no_grad():
        for loss, members in zip(losses, (ROWS[:6], ROWS[6:]), strict=True):
            before, expected = [tokenizer.bos_token_id, *tokens(tokenizer, "\n")], 0.0
            for prompt, response in (DEMONSTRATIONS[i] for i in members):
                before = [*before, *tokens(tokenizer, prompt)]
                learned = tokens(tokenizer, response + "\n")
                expected -= slow_logprob(model, before, learned).item()
                before = [*before, *learned]
            assert loss.item() == pytest.approx(expected / UNIT, rel=1e-4)


def test_the_share_of_few_shot_steps_is_the_recipes(made):
    """Which steps those are is a function of their examples: the same again after an interruption."""
    _, tokenizer = made
    many = DEMONSTRATIONS * 40
    together = []

    def count(batch):
        together.append(batch.num_responses == 1)
        return torch.zeros(batch.num_responses)

    count.model = torch.nn.Linear(1, 1)
    count.model.device = "cpu"
    objective = start_policy.make_objective(count, tokenizer=tokenizer, end_token_id=2, demonstrations=many, few_shot_fraction=0.3)
    for first in range(400):
        objective([first, (first + 1) % 400])
    assert sum(together) / 400 == pytest.approx(0.3, abs=0.1)
    once = list(together)
    together.clear()
    for first in range(400):
        objective([first, (first + 1) % 400])
    assert together == once


# The start policy of another run


def manifest(*overrides: str, **environment: object) -> Manifest:
    run = recipes.load("tiny", overrides=overrides)
    return Manifest(
        schema=SCHEMA,
        recipe="tiny",
        method="spac",
        seed=0,
        settings=run.settings(),
        settings_sha256=run.settings_sha256,
        inputs={"preferences_sha256": "a"},
        environment={"kernels": {"cpu_capability": "AVX2"}, "variables": {}, **environment},
    )


@pytest.fixture
def finished_start(tmp_path, monkeypatch):
    """A folder with a start policy, of the recipe with the given settings."""
    monkeypatch.setattr("spac_repro.runs.iteration.IterationFolder.finished", True)

    def make(*overrides: str):
        files.write_json(RunFolder(tmp_path).manifest_file, manifest(*overrides).as_json())
        return tmp_path

    return make


def test_a_start_whose_heldout_log_probabilities_were_batched_otherwise_is_refused(finished_start):
    there = finished_start("training.micro_batch_tokens=100")
    with pytest.raises(UserError, match=r"training\.micro_batch_tokens is 100 there and 4096 here; omit --start-from"):
        start_policy.check_reusable(there, manifest())


def test_without_heldout_pairs_the_batches_of_training_do_not_bear_on_the_start(finished_start):
    there = finished_start("training.micro_batch_tokens=100", "evaluation.heldout_pairs=0")
    start_policy.check_reusable(there, manifest("evaluation.heldout_pairs=0"))


def test_a_start_that_other_kernels_computed_is_refused(finished_start):
    there = finished_start()
    start_policy.check_reusable(there, manifest())
    with pytest.raises(UserError, match=r"environment\.kernels\.cpu_capability is 'AVX2' there and 'AVX512' here"):
        start_policy.check_reusable(there, manifest(kernels={"cpu_capability": "AVX512"}))
    with pytest.raises(UserError, match=r"environment\.variables\.MKL_CBWR is None there and 'COMPATIBLE' here"):
        start_policy.check_reusable(there, manifest(variables={"MKL_CBWR": "COMPATIBLE"}))
