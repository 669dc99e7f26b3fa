"""Sampled responses: of the right distribution, the same again for the same seed, and after an interruption."""

import json

import pytest
import torch

from spac_repro.recipe import SelfPlaySettings
from spac_repro.runs import files
from spac_repro.sampling import selfplay

VOCABULARY = 37  # of the tiny models
PAD, STOP = 0, 2
LONGEST = 6


def settings(
    *, prompts_per_seed: int = 4, decode_batch_size: int | None = None, temperature: float = 1.0, top_p: float = 1.0
) -> SelfPlaySettings:
    return SelfPlaySettings(
        temperature=temperature,
        top_p=top_p,
        prompts_per_seed=prompts_per_seed,
        decode_batch_size=decode_batch_size,
        backend="transformers",
    )


@pytest.fixture(scope="module")
def model(tiny_models):
    return tiny_models["mistral"]


def draw(length: int, seed: int) -> list[int]:
    return torch.randint(3, VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


PROMPTS = [draw(1 + 7 * i % 11, i) for i in range(13)]  # three batches of 4 and one of 1, not in the order of their length


def respond(model, prompts=PROMPTS, how=None, **changes):
    given = {"max_response_tokens": LONGEST, "pad_token_id": PAD, "stop_token_ids": [STOP], "seed": 1}
    return selfplay.sample_responses(model, prompts, how or settings(), **{**given, **changes})


def test_the_same_seed_gives_the_same_responses_and_another_gives_others(model):
    first = respond(model)
    torch.rand(7)  # what is drawn in between has no say
    assert respond(model) == first
    assert respond(model, seed=2) != first


def test_gpus_of_other_processes_are_left_alone(model, monkeypatch):
    """On a node with eight GPUs only the model's own device is touched; here it has none."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: pytest.fail(f"{device} is started"))
    respond(model)


def test_no_other_draw_is_disturbed_and_the_model_is_left_as_it_was(model):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    model.train()
    try:
        respond(model)
        assert model.training
    finally:
        model.eval()
    respond(model)
    assert not model.training
    assert torch.equal(torch.rand(4), expected)


def test_every_batch_has_a_seed_of_its_own(model):
    """Otherwise like prompts in like places of two batches would be answered alike."""
    responses = respond(model, [PROMPTS[0]] * 40, settings(prompts_per_seed=20))
    assert responses[:20] != responses[20:]


def test_a_response_ends_with_the_first_stop_or_at_the_limit(model):
    responses = respond(model, PROMPTS * 12, settings(prompts_per_seed=len(PROMPTS) * 12), max_response_tokens=20)
    stopped = [response for response in responses if STOP in response]
    assert 10 < len(stopped) < len(responses)  # both kinds are there to be looked at
    for response in stopped:
        assert response.index(STOP) == len(response) - 1
    for response in responses:
        assert 1 <= len(response) <= 20
        assert STOP in response or len(response) == 20


def greedy_by_hand(model, prompt: list[int]) -> list[int]:
    """The likeliest token, again and again, from a full forward pass on one unpadded row."""
    response: list[int] = []
    while len(response) < LONGEST and STOP not in response:
        logits = model(input_ids=torch.tensor([[*prompt, *response]]), use_cache=False).logits[0, -1]
        response.append(int(logits.argmax()))
    return response


@pytest.mark.parametrize(
    "how", [settings(temperature=1e-4), settings(temperature=1e-4, prompts_per_seed=len(PROMPTS), decode_batch_size=3)]
)
@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2"])
@torch.no_grad()
def test_near_temperature_0_a_response_is_the_greedy_one(tiny_models, name, how):
    """Padding on the left, the cache, the sliding window and who shares the rows change nothing, and each prompt gets its own."""
    model = tiny_models[name]
    responses = respond(model, how=how)
    assert responses == [greedy_by_hand(model, prompt) for prompt in PROMPTS]


@torch.no_grad()
def test_token_frequencies_match_probabilities(model):
    """χ² of 4,000 first tokens against the softmax; nothing is cut off the distribution, and the temperature divides logits."""
    prompt, n = PROMPTS[3], 4000
    logits = model(input_ids=torch.tensor([prompt])).logits[0, -1].double()
    for temperature in (1.0, 2.0):
        responses = respond(model, [prompt] * n, settings(prompts_per_seed=n, temperature=temperature), max_response_tokens=1)
        counts = torch.bincount(torch.tensor(responses).flatten(), minlength=VOCABULARY).double()
        expected = n * (logits / temperature).softmax(-1)
        chi2 = ((counts - expected) ** 2 / expected).sum().item()
        assert chi2 < 80  # 36 degrees of freedom: beyond 80 once in 30,000 seeds, and the seed is fixed


@pytest.mark.parametrize("decode_batch_size", [None, 1000])
@torch.no_grad()
def test_second_token_frequencies_match_after_rows_have_left(model, decode_batch_size):
    """χ² of second tokens after the likeliest first one, against a forward pass on that row alone."""
    n = 6000
    for prompt in (PROMPTS[3], PROMPTS[5]):
        first = model(input_ids=torch.tensor([prompt])).logits[0, -1].softmax(-1)
        first[STOP] = 0
        begin = [int(first.argmax())]
        second = model(input_ids=torch.tensor([[*prompt, *begin]])).logits[0, -1].softmax(-1)
        responses = respond(
            model,
            [prompt, PROMPTS[6]] * n,
            settings(prompts_per_seed=2 * n, decode_batch_size=decode_batch_size),
            max_response_tokens=2,
        )
        assert any(len(response) == 1 for response in responses)  # some left after the first token
        drawn = [response[1] for response in responses[::2] if response[:1] == begin]
        counts = torch.bincount(torch.tensor(drawn), minlength=VOCABULARY).double()
        expected = len(drawn) * second.double()
        likely = expected > 5
        chi2 = ((counts - expected)[likely] ** 2 / expected[likely]).sum().item()
        degrees = int(likely.sum())
        assert degrees > 3
        assert chi2 < degrees + 5 * (2 * degrees) ** 0.5


@torch.no_grad()
def test_a_finished_response_leaves_the_batch(model):
    """It is what makes mixed lengths cheap: every forward pass has as many rows as there are responses that go on."""
    rows = []
    handle = model.register_forward_pre_hook(lambda module, given, named: rows.append(len(named["input_ids"])), with_kwargs=True)
    try:
        responses = respond(model, PROMPTS * 12, settings(prompts_per_seed=len(PROMPTS) * 12), max_response_tokens=20)
    finally:
        handle.remove()
    lengths = [len(response) for response in responses]
    assert rows == [sum(length > place for length in lengths) for place in range(max(lengths))]


@torch.no_grad()
def test_a_finished_response_makes_room_for_the_next_prompt(model):
    """No more rows than allowed, and few passes that have empty places: fewer than batches of that size would take."""
    prompts, longest, decode_batch_size = PROMPTS * 12, 60, 24
    passes = []
    handle = model.register_forward_pre_hook(lambda module, given, named: passes.append(named["input_ids"].shape), with_kwargs=True)
    try:
        responses = respond(
            model,
            prompts,
            settings(prompts_per_seed=len(prompts), decode_batch_size=decode_batch_size),
            max_response_tokens=longest,
        )
        joined = [rows for rows, width in passes if width == 1]
        passes.clear()
        respond(model, prompts, settings(prompts_per_seed=decode_batch_size), max_response_tokens=longest)
        apart = [rows for rows, width in passes if width == 1]
    finally:
        handle.remove()
    assert max(joined) <= decode_batch_size
    assert len(joined) < 0.75 * len(apart), (len(joined), len(apart))
    assert len(responses) == len(prompts)
    assert all(len(response) == longest or response.index(STOP) == len(response) - 1 for response in responses)


@torch.no_grad()
def test_top_p_leaves_only_the_likeliest(model):
    likeliest = model(input_ids=torch.tensor([PROMPTS[3]])).logits[0, -1].softmax(-1).sort(descending=True)
    kept = int((likeliest.values.cumsum(0) < 0.5).sum()) + 1
    responses = respond(model, [PROMPTS[3]] * 500, settings(prompts_per_seed=500, top_p=0.5), max_response_tokens=1)
    assert {response[0] for response in responses} == set(likeliest.indices[:kept].tolist())


# Batches on disk


def test_an_interrupted_call_goes_on_to_the_same_responses(model, tmp_path):
    uninterrupted = respond(model)

    def die_at(batch):
        def advance(done, total):
            if done == batch:
                raise KeyboardInterrupt

        return advance

    for batch in (1, 2, 3):
        with pytest.raises(KeyboardInterrupt):
            respond(model, folder=tmp_path, advance=die_at(batch))
        assert sorted(path.name for path in tmp_path.iterdir()) == [f"batch-{i:05d}.json" for i in range(batch)]
    torch.rand(5)
    assert respond(model, folder=tmp_path) == uninterrupted


def test_finished_batches_are_read_and_not_sampled_again(model, tmp_path):
    before = respond(model, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    kept = tmp_path / "batch-00002.json"
    saved = json.loads(kept.read_text())
    files.write_sealed_json(kept, [[9, 9, STOP] for _ in saved["content"]], computed_from=saved["computed_from"])
    after = respond(model, folder=tmp_path)
    changed = [i for i in range(len(PROMPTS)) if after[i] != before[i]]
    assert len(changed) == 4
    by_length = sorted(range(len(PROMPTS)), key=lambda i: (len(PROMPTS[i]), i))
    assert changed == sorted(by_length[8:12])


def test_a_batch_that_was_changed_or_is_anothers_is_sampled_again(model, tmp_path):
    before = respond(model, folder=tmp_path, computed_from={"weights": "a"})
    kept = tmp_path / "batch-00002.json"
    saved = json.loads(kept.read_text())
    saved["content"][0][0] += 1
    kept.write_text(json.dumps(saved))
    assert respond(model, folder=tmp_path, computed_from={"weights": "a"}) == before
    kept.write_text("[]")
    assert respond(model, folder=tmp_path, computed_from={"weights": "a"}) == before
    for number in range(4):
        files.write_sealed_json(tmp_path / f"batch-{number:05d}.json", [[9, STOP]] * 4, computed_from={"weights": "other"})
    assert respond(model, folder=tmp_path, computed_from={"weights": "a"}) == before


def test_delete_batches(model, tmp_path):
    respond(model, folder=tmp_path / "selfplay")
    selfplay.delete_batches(tmp_path / "selfplay")
    assert not (tmp_path / "selfplay").exists()
    selfplay.delete_batches(tmp_path / "selfplay")  # deleting nothing is no error


def test_progress_counts_batches(model):
    reported = []
    respond(model, advance=lambda done, total: reported.append((done, total)))
    assert reported == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
