"""Packed sequences against the stock model without packing: values and gradients, for any lengths."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import flex_attention

from spac_repro.data.example import TokenizedExample
from spac_repro.model import packed_attention
from spac_repro.model.index_select import gather_index
from spac_repro.model.packing import pack
from spac_repro.model.policy import Policy
from spac_repro.optim.loop import batch_by_tokens

pytestmark = pytest.mark.usefixtures("one_thread")

VOCABULARY = 37  # of the tiny models
MODELS = ("llama", "mistral", "qwen2")


def tokens(least: int, most: int):
    return st.lists(st.integers(0, VOCABULARY - 1), min_size=least, max_size=most)


@st.composite
def examples(draw) -> TokenizedExample:
    """A prompt of 1 to 11 tokens with 1 to 4 responses of 0 to 9; Mistral's window of 4 is shorter than most."""
    prompt, responses = draw(tokens(1, 11)), draw(st.lists(tokens(0, 9), min_size=1, max_size=4))
    if draw(st.booleans()):
        return TokenizedExample(prompt, responses)
    return TokenizedExample(prompt, responses, [[draw(st.booleans()) for _ in response] for response in responses])


batches = st.lists(examples(), min_size=1, max_size=4).filter(
    lambda batch: any(len(response) for example in batch for response in example.responses)
)


@pytest.fixture(scope="module")
def stock(tiny_models):
    """The same weights in models that know nothing of this package."""
    models = {name: copy.deepcopy(model) for name, model in tiny_models.items()}
    for model in models.values():
        model.set_attn_implementation("eager")
    return models


def unpacked_logprobs(model, batch: list[TokenizedExample]) -> torch.Tensor:
    """log π of each response, with its prompt in a batch of one, from all logits."""
    values = []
    for example in batch:
        for number, response in enumerate(example.responses):
            row = torch.tensor([[*example.prompt, *response]])
            logprobs = model(input_ids=row, use_cache=False).logits[0, :-1].log_softmax(-1)
            of_tokens = logprobs.gather(1, row[0, 1:, None])[len(example.prompt) - 1 :, 0]
            counted = (
                torch.tensor(example.loss_mask[number], dtype=torch.bool) if example.loss_mask else torch.ones(len(response)).bool()
            )
            values.append(of_tokens[counted].sum())
    return torch.stack(values)


def gradients(model, values: torch.Tensor, first: int = 0) -> dict[str, torch.Tensor]:
    """Of a sum in which every response weighs differently; `first` is the number of the first among all."""
    weights = torch.cos(torch.arange(first, first + len(values)))
    model.zero_grad()
    (weights * values).sum().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def assert_same(found, expected):
    """To fp32 rounding of sums that pass through two layers."""
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5 * max(1.0, float(expected.detach().abs().max())))


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=12, deadline=None)
@given(batch=batches)
def test_values_and_gradients_equal_those_without_packing(tiny_models, stock, name, batch):
    found, expected = Policy(tiny_models[name])(pack(batch)), unpacked_logprobs(stock[name], batch)
    assert_same(found, expected)
    slopes = gradients(stock[name], expected)
    for parameter, slope in gradients(tiny_models[name], found).items():
        assert_same(slope, slopes[parameter])


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=5, deadline=None)
@given(batch=batches, budget=st.integers(1, 120))
def test_the_division_into_sequences_changes_nothing(tiny_models, name, batch, budget):
    """Neither the values nor the sum of the gradients: the trainer accumulates those of rows within a budget of tokens."""
    model = tiny_models[name]
    whole = Policy(model)(pack(batch))
    slopes = gradients(model, whole)
    summed = {parameter: torch.zeros_like(slope) for parameter, slope in slopes.items()}
    done = 0
    for rows in batch_by_tokens(range(len(batch)), [example.num_tokens for example in batch], budget):
        values = Policy(model)(pack([batch[i] for i in rows]))
        assert_same(values, whole[done : done + len(values)])
        for parameter, slope in gradients(model, values, done).items():
            summed[parameter] += slope
        done += len(values)
    assert done == len(whole)
    for parameter, slope in slopes.items():
        assert_same(summed[parameter], slope)


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=5, deadline=None)
@given(batch=batches)
@torch.no_grad()
def test_flex_attention_gives_the_same_values(tiny_models, name, batch):
    """The form that a GPU takes, by torch's own reference implementation: values only, which is all that it has on a CPU."""
    apart = Policy(tiny_models[name])(pack(batch))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed_attention, "split_attention", packed_attention.flex_packed_attention)
        patch.setattr(flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)  # or every shape is traced anew, for minutes
        whole = Policy(tiny_models[name])(pack(batch))
    assert_same(whole, apart)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@settings(max_examples=60, deadline=None)
@given(places=st.lists(st.integers(-1, 5), min_size=1, max_size=30), seed=st.integers(0, 99))
def test_gathered_gradients_equal_index_select_bitwise(dtype, places, seed):
    """Rows taken never, once and several times, and padding, whose gradient is zero."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(6, 3, generator=generator).to(dtype).requires_grad_()
    slope = torch.randn(len(places), 3, generator=generator).to(dtype)
    slope[[i for i, place in enumerate(places) if place < 0]] = 0.0
    expected = rows.index_select(0, torch.tensor(places).clamp(min=0))
    found = gather_index(places, 6, torch.as_tensor).select(rows)
    assert torch.equal(found, expected)
    assert torch.equal(*(torch.autograd.grad(values, rows, slope)[0] for values in (found, expected)))


@torch.no_grad()
def test_responses_are_independent(tiny_models):
    """To the bit: what stands in one response, or in one group, changes nothing of the others."""
    prompt, one, other = [5, 6, 7], [8, 9, 10], [11, 12, 13]
    policy = Policy(tiny_models["llama"])
    before = policy(pack([TokenizedExample(prompt, [one, other]), TokenizedExample(other, [one])]))
    after = policy(pack([TokenizedExample(prompt, [one, [20, 21, 22]]), TokenizedExample(one, [other])]))
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_a_prompt_is_packed_once():
    packed = pack([TokenizedExample([1, 2, 3], [[4, 5], [6]]), TokenizedExample([7], [[8]])])
    assert packed.input_ids.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8]]
    assert packed.position_ids.tolist() == [[0, 1, 2, 3, 4, 3, 0, 1]]
    assert packed.logit_index.tolist() == [2, 3, 2, 6]  # the prompt's last token predicts the first of every response
    assert packed.targets.tolist() == [4, 5, 6, 8]
    assert packed.response_numbers.tolist() == [0, 0, 1, 2]
    assert TokenizedExample([1, 2, 3], [[4, 5], [6]]).num_tokens == 6


@torch.no_grad()
def test_rows_of_any_layout_are_computed_by_the_same_compiled_graph():
    """Compilation takes seconds, and after some dynamo gives up. Traced as on a GPU, but run by the reference implementation."""
    torch._dynamo.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = packed_attention.compiled_flex_attention.__wrapped__(backend)
    for window in (5, 9):
        for length in (3, 40, 150, 170):
            layout = pack([TokenizedExample([1] * length, [[2] * 3, [3] * length]), TokenizedExample([1], [[2]])]).layout
            query, key, value = (torch.randn(1, heads, len(layout.position_ids), 16) for heads in (4, 2, 2))
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(packed_attention, "flex_attention", compiled)
                found = packed_attention.flex_packed_attention(query, key, value, layout, scaling=None, window=window)
            assert_same(found, packed_attention.split_attention(query, key, value, layout, scaling=None, window=window))
    assert len(graphs) == 2  # for rows of one block of 128 tokens, and for longer ones
    torch._dynamo.reset()


@torch.no_grad()
def test_bounds_of_the_logits_are_compiled_in():
    """Dynamo takes a number in a closure for a variable, and then fails to trace the bound, as it would on a GPU."""
    torch._dynamo.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    layout = pack([TokenizedExample([1] * 5, [[2] * 3, [3] * 4])]).layout
    query, key, value = (torch.randn(1, heads, len(layout.position_ids), 16) for heads in (4, 2, 2))
    compiled = packed_attention.compiled_flex_attention.__wrapped__(backend)
    for softcap in (50.0, 2.0, None, 50.0):
        options = {"scaling": 0.3, "window": None, "softcap": softcap}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(packed_attention, "flex_attention", compiled)
            found = packed_attention.flex_packed_attention(query, key, value, layout, **options)
        assert_same(found, packed_attention.split_attention(query, key, value, layout, **options))
    assert len(graphs) == 3
    torch._dynamo.reset()


def test_no_pool_of_compilers_is_started_for_each_gpu():
    from torch._inductor import async_compile

    packed_attention.compiled_flex_attention.__wrapped__("eager")
    assert async_compile.get_compile_threads() == 1


def test_small_heads_are_as_wide_as_a_gpu_needs(monkeypatch):
    widths = []

    def attention(query, key, value, **_):
        widths.extend(tensor.shape[-1] for tensor in (query, key, value))
        return query

    monkeypatch.setattr(packed_attention, "flex_attention", attention)
    layout = pack([TokenizedExample([1, 2], [[3]])]).layout
    output = packed_attention.flex_packed_attention(*torch.randn(3, 1, 2, 3, 4), layout, scaling=None, window=None)
    assert widths == [16, 16, 16]
    assert output.shape == (1, 3, 2, 4)
