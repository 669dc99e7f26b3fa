"""Datasets: reference log-probabilities for any batch size, and the file's round trip."""

import pytest
import torch

from spac_repro.data import dataset
from spac_repro.data.dataset import RESPONSES, PreferenceDataset
from spac_repro.data.rendering import TokenizedPreferences
from spac_repro.errors import UserError
from spac_repro.model.packing import TokenizedExample
from spac_repro.model.policy import Policy
from spac_repro.model.reference import reference_logprobs

VOCABULARY = 37  # of the tiny models


def draw(length: int, seed: int) -> list[int]:
    return torch.randint(VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


EXAMPLES = TokenizedPreferences(
    [draw(2 + i % 4, i) for i in range(7)],
    [draw(1 + 5 * i % 7, 10 + i) for i in range(7)],
    [draw(1 + 3 * i % 5, 20 + i) for i in range(7)],
)
SELFPLAY = [draw(1 + i % 3, 30 + i) for i in range(7)]
TEXTS = {"prompt": [f"prompt {i}\n" for i in range(7)], "chosen": ["ρ"] * 7}


@pytest.fixture
def data():
    return PreferenceDataset.from_tokenized(EXAMPLES, SELFPLAY)


def reference(model, data, names=RESPONSES, tokens=30):
    return reference_logprobs(Policy(model), data, names, batch_tokens=tokens, advance=lambda done, total: None)


def test_every_row_keeps_its_own_responses(data):
    assert data.examples(["rejected"], [4, 0]) == [TokenizedExample(EXAMPLES.prompt[i], [EXAMPLES.rejected[i]]) for i in (4, 0)]
    assert data.examples(["selfplay", "chosen"], [6]) == [TokenizedExample(EXAMPLES.prompt[6], [SELFPLAY[6], EXAMPLES.chosen[6]])]
    assert data.num_tokens(["selfplay", "chosen"])[6] == sum(map(len, (EXAMPLES.prompt[6], SELFPLAY[6], EXAMPLES.chosen[6])))
    assert "selfplay" not in PreferenceDataset.from_tokenized(EXAMPLES, None).responses


@pytest.mark.parametrize("tokens", [1, 20, 45, 1000])
def test_reference_logprobs_are_in_row_order(tiny_models, slow_logprob, data, tokens):
    """They are computed in the order of length."""
    model = tiny_models["llama"]
    found = reference(model, data, tokens=tokens)
    assert list(found) == list(RESPONSES)
    for name, values in found.items():
        assert (values.dtype, values.shape, values.requires_grad) == (torch.float32, (7,), False)
        with torch.no_grad():
            expected = torch.stack([slow_logprob(model, p, y) for p, (y,), _ in data.examples([name], range(7))])
        torch.testing.assert_close(values.double(), expected, rtol=1e-5, atol=2e-5)


def test_only_the_named_responses_are_scored(tiny_models, data):
    assert list(reference(tiny_models["llama"], data, names=("chosen",))) == ["chosen"]


def test_round_trip_keeps_every_bit(tiny_models, tmp_path, data):
    whole = PreferenceDataset(data.prompts, data.responses, reference(tiny_models["llama"], data))
    dataset.write(tmp_path / "selfplay.parquet", whole, TEXTS)
    back = dataset.read(tmp_path / "selfplay.parquet")
    assert back.prompts == whole.prompts
    assert dict(back.responses) == dict(whole.responses)
    assert back.reference_logprobs.keys() == whole.reference_logprobs.keys()
    for name, values in whole.reference_logprobs.items():
        assert back.reference_logprobs[name].dtype == torch.float32
        assert torch.equal(back.reference_logprobs[name], values)


def test_unused_responses_are_not_in_the_file(tmp_path):
    dataset.write(tmp_path / "a.parquet", PreferenceDataset.from_tokenized(EXAMPLES, None), {})
    back = dataset.read(tmp_path / "a.parquet")
    assert list(back.responses) == ["chosen", "rejected"]
    assert dict(back.reference_logprobs) == {}


def test_the_file_has_text_columns(tmp_path, data):
    from pyarrow import parquet

    dataset.write(tmp_path / "a.parquet", data, TEXTS)
    table = parquet.read_table(tmp_path / "a.parquet")
    assert table.column("prompt").to_pylist() == TEXTS["prompt"]
    assert table.column("chosen").to_pylist() == TEXTS["chosen"]
    assert table.column("chosen_tokens").to_pylist() == EXAMPLES.chosen


def test_equal_datasets_give_equal_files(tmp_path, data):
    for name in ("one", "other"):
        dataset.write(tmp_path / name, data, TEXTS)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


@pytest.mark.parametrize("cut", [0, 10, -1])
def test_a_damaged_file_is_reported_with_the_remedy(tmp_path, data, cut):
    path = tmp_path / "selfplay.parquet"
    dataset.write(path, data, TEXTS)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match=r"is damaged .*; remove it and repeat the command") as refused:
        dataset.read(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_changed_token_or_logprob_is_refused(tiny_models, tmp_path, data):
    """Whatever the file's own checksums say: they are made anew by whoever writes it anew."""
    import pyarrow as pa
    from pyarrow import parquet

    path = tmp_path / "selfplay.parquet"
    dataset.write(path, PreferenceDataset(data.prompts, data.responses, reference(tiny_models["llama"], data), "a" * 64), TEXTS)
    assert dataset.read(path, reference_sha256="a" * 64).reference_sha256 == "a" * 64
    with pytest.raises(UserError, match=f"belong to the weights {'a' * 64}, but the reference has the weights None; remove it"):
        dataset.read(path, reference_sha256=None)
    table, stored = parquet.read_table(path), parquet.read_metadata(path).metadata

    def rewrite(table: pa.Table, rows: int) -> None:
        with parquet.ParquetWriter(path, table.schema) as writer:
            writer.write_table(table, row_group_size=rows)
            writer.add_key_value_metadata({name: stored[name] for name in (dataset.CONTENT, dataset.REFERENCE)})

    for name in ("rejected_tokens", "selfplay_reference_logprob"):
        values = table.column(name).to_pylist()
        values[3] = [*values[3][:-1], values[3][-1] ^ 1] if name == "rejected_tokens" else values[3] + 1e-3
        place = table.column_names.index(name)
        rewrite(table.set_column(place, table.field(place), pa.array(values, table.field(place).type)), 7)
        with pytest.raises(UserError, match=r"is damaged \(its content is not what was written\); remove it"):
            dataset.read(path)
    rewrite(table, 2)  # cut up otherwise, and the same
    assert dataset.read(path).prompts == data.prompts
