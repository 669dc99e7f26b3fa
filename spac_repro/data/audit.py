"""Data versus self-play: how well the two can be told apart, and how much of that comes from rendering.

SPAC's critic and SPIN's discriminator learn to tell the data's responses from self-play responses. They shall do so by what
the responses say. This module measures what three traits could do that say little: the first token, the end (the stop tokens,
or none where the response is cut), and the length.

**A classifier** decides by one trait. It counts log-odds on one half of the prompts and is measured on the other, and all
rows of a prompt are in the same half. Each row has one response of each side, so chance is 0.5. Both sides have equally many
rows and the same smoothing, so the sign of the smoothed log-odds is the sign of the difference of counts. A tie is half
right. Lengths are counted in ten bins, whose edges are deciles of the first half.

**Rendering's own share** is the accuracy of this classifier on the self-play tokens, less its accuracy on the same responses
decoded and encoded as data. The data's side is the same in both, so the share is half the mean of d_i = c(sampled_i) −
c(encoded_i), where c is 1 if the classifier takes a response for self-play, ½ in a tie, and 0 otherwise. The two token
sequences have the same text, so content cancels. What remains is how the tokens were made. The accuracy alone would not show
that: a policy may begin its responses otherwise than the data do, and then the classifier is right about the content.

**Non-canonical sampling** changes tokens too. A policy can sample `Th` `e` where the tokenizer writes `The`. Data never look
like that, however they are rendered, so this is the policy's doing. The text of the whole row, prompt included, separates the
two: a row with a non-canonical response reads the same when the response is encoded anew, and a row with a rendering artefact
does not (after `▁`, `▁The` has one space more than `The`). So d_i counts for rendering where the row reads otherwise, and for
non-canonical sampling where it reads the same. Non-canonical sampling beyond the first word leaves the first token alone, but
it changes lengths. So the length classifier has no share of rendering's. A stop token has one encoding, so for the end all
d_i count for rendering; a response that is cut, before or after, has none. A response that no data can have counts for the
policy: one with a special token in it, as text that looks like one is encoded as text, or one whose text the tokenizer cannot
encode.

**The permutation test**: without a rendering artefact, "sampled" and "encoded" are exchangeable names of a response's two
token sequences. Swapping them within a response changes the sign of its d_i and nothing else, because the classifier was
counted on other prompts. The share is compared with its distribution over all 2ⁿ swaps. That is the convolution of two
binomial distributions, so it is exact and needs no random numbers. Where there is no artefact and every response is
canonical, all d_i are 0, and p is 1.

The total variation of two samples is above 0 for equal distributions as well. Beside it stands its mean over all swaps of the
two sides within rows: what chance alone gives.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import takewhile
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from spac_repro.runs.audit import QUANTILES, Audit, Classifier, Comparison, Side
from spac_repro.runs.results import clustered_standard_error

MAX_ROWS = 4096  # encoding anew takes about a millisecond a response
FIRST_TOKENS = 5  # shown of each side
BINS = 10  # of lengths

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]
Booleans = npt.NDArray[np.bool_]


class Codec(NamedTuple):
    """What the audit must know of the tokenizer and the renderer.

    Attributes:
        re_encode: gets the number of a row and the tokens of a response to its prompt, and returns the tokens that the data have
            for the response's text.
        row_text: gets all tokens of a row, and returns its text, with special tokens.
        token_text: gets a token, and returns it as the tokenizer writes it.
        stop_token_ids: the tokens at which generation stops.
        special_token_ids: the tokens that no text of the data is encoded as.
        unknown_token_id: stands for text that the tokenizer cannot encode; None where there is no such text.
    """

    re_encode: Callable[[int, Sequence[int]], Sequence[int]]
    row_text: Callable[[Sequence[int]], str]
    token_text: Callable[[int], str]
    stop_token_ids: Sequence[int]
    special_token_ids: Sequence[int] = ()
    unknown_token_id: int | None = None


class Traits(NamedTuple):
    """What the classifiers look at."""

    first_token: int | None
    end: tuple[int, ...]  # the stop tokens at the end; empty where the response is cut
    length: int

    @classmethod
    def of(cls, response: Sequence[int], stop_token_ids: Sequence[int]) -> "Traits":
        """Return the traits of a response."""
        end = tuple(takewhile(set(stop_token_ids).__contains__, reversed(response)))
        return cls(response[0] if response else None, end[::-1], len(response))


class Encoded(NamedTuple):
    """A self-play response that was decoded and encoded as data."""

    first_token: int | None
    end: tuple[int, ...]
    changed: bool  # other tokens
    rewritten: bool  # another text, before the end


class Sample(NamedTuple):
    """The n rows that are looked at; those of half the prompts are held out."""

    rows: list[int]
    prompts: list[str]  # [n] the hash of each row's prompt
    held_out: Booleans  # [n]


def measure(
    prompts: Sequence[Sequence[int]], data: Mapping[str, Sequence[list[int]]], selfplay: Sequence[list[int]] | None, codec: Codec
) -> Audit:
    """Compare the data's responses with self-play responses. At most `MAX_ROWS` rows are looked at.

    Args:
        prompts: the token ids of each row's prompt.
        data: the columns of the data that the method uses.
        selfplay: one response a row; None if the method samples none.
        codec: the tokenizer's and the renderer's functions.
    """
    sample = draw_sample(prompts, MAX_ROWS)
    columns = {**data, **({} if selfplay is None else {"selfplay": selfplay})}
    traits = {name: [Traits.of(rows[i], codec.stop_token_ids) for i in sample.rows] for name, rows in columns.items()}
    audit = Audit(
        rows=len(sample.rows),
        rows_in_all=len(prompts),
        held_out_rows=int(sample.held_out.sum()),
        sides={name: _side(rows, codec) for name, rows in traits.items()},
        comparisons={},
    )
    if selfplay is None or not sample.rows:
        return audit
    encoded = [_encode(i, prompts[i], selfplay[i], codec) for i in sample.rows]
    changes = {
        "non_canonical": sum(each.changed and not each.rewritten for each in encoded) / len(encoded),
        "rewritten": sum(each.rewritten for each in encoded) / len(encoded),
        "comparisons": {name: _compare(traits[name], traits["selfplay"], encoded, sample) for name in data},
    }
    return audit.model_copy(update=changes)


def draw_sample(prompts: Sequence[Sequence[int]], max_rows: int) -> Sample:
    """Take rows in the order of their prompt's SHA-256, at most `max_rows`. Each prompt goes to the half that has fewer rows."""
    rows_of: dict[str, list[int]] = {}
    for row, prompt in enumerate(prompts):
        rows_of.setdefault(hashlib.sha256(np.asarray(prompt, np.int32).tobytes()).hexdigest(), []).append(row)
    rows: list[int] = []
    held_out: list[bool] = []
    for _, own in sorted(rows_of.items()):
        in_second = sum(held_out) * 2 < len(held_out)
        rows += own
        held_out += [in_second] * len(own)
        if len(rows) >= max_rows:
            break
    prompt_of = {row: prompt for prompt, own in rows_of.items() for row in own}
    rows = rows[:max_rows]
    return Sample(rows, [prompt_of[row] for row in rows], np.array(held_out[:max_rows], bool))


def _side(traits: Sequence[Traits], codec: Codec) -> Side:
    lengths = [each.length for each in traits] or [0]
    counts = Counter(each.first_token for each in traits if each.first_token is not None)
    most_frequent = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:FIRST_TOKENS]
    return Side(
        cut=sum(not each.end for each in traits) / max(1, len(traits)),
        mean_length=float(np.mean(lengths)),
        length_quantiles=tuple(np.quantile(lengths, QUANTILES, method="lower").tolist()),
        first_tokens=tuple((codec.token_text(token), count / len(traits)) for token, count in most_frequent),
    )


def _encode(row: int, prompt: Sequence[int], response: Sequence[int], codec: Codec) -> Encoded:
    tokens, sampled = list(codec.re_encode(row, response)), list(response)
    encoded, of_sampled = Traits.of(tokens, codec.stop_token_ids), Traits.of(sampled, codec.stop_token_ids)
    # A cut response stays cut. One that encoding makes longer may be cut at the limit, which says nothing about how data end.
    cut = not of_sampled.end or (not encoded.end and encoded.length >= of_sampled.length)
    end = of_sampled.end if cut else encoded.end
    if tokens == sampled:
        return Encoded(encoded.first_token, end, changed=False, rewritten=False)
    body = sampled[: len(sampled) - len(of_sampled.end)]
    if codec.unknown_token_id in tokens or not set(codec.special_token_ids).isdisjoint(body):
        return Encoded(encoded.first_token, end, changed=True, rewritten=False)  # data cannot have this response

    def text(response: list[int], end: tuple[int, ...]) -> str:
        without_end = response[: len(response) - len(end)]
        return codec.row_text([*prompt, *without_end]).rstrip("\ufffd")  # half a character, where the response is cut

    shorter, longer = sorted((text(tokens, encoded.end), text(sampled, of_sampled.end)), key=len)
    if not (encoded.end and of_sampled.end):  # cut: other tokens reach less or more far into the same text
        longer = longer[: len(shorter)]
    return Encoded(encoded.first_token, end, changed=True, rewritten=shorter != longer)


def _compare(data: Sequence[Traits], selfplay: Sequence[Traits], encoded: Sequence[Encoded], sample: Sample) -> Comparison:
    rewritten = np.array([each.rewritten for each in encoded])
    train = ~sample.held_out
    lengths = [np.array([each.length for each in side]) for side in (data, selfplay)]
    data_bins, selfplay_bins = length_bins(lengths[0], lengths[1], train)
    return Comparison(
        first_token=classify(
            [each.first_token for each in data],
            [each.first_token for each in selfplay],
            sample,
            encoded=[each.first_token for each in encoded],
            by_rendering=rewritten,
        ),
        end=classify(
            [each.end for each in data],
            [each.end for each in selfplay],
            sample,
            encoded=[each.end for each in encoded],
            by_rendering=np.ones(len(encoded), bool),
        ),
        length=classify(data_bins.tolist(), selfplay_bins.tolist(), sample),
    )


def length_bins(data: Ints, selfplay: Ints, train: Booleans) -> tuple[Ints, Ints]:
    """Return the bin of every length, [n] for each side. Bin k begins at the k-th decile of both sides' training rows."""
    pooled = np.concatenate([data[train], selfplay[train]])
    if not len(pooled):
        return np.zeros(len(data), np.intp), np.zeros(len(selfplay), np.intp)
    edges = np.unique(np.quantile(pooled, np.arange(1, BINS) / BINS, method="higher"))
    return np.searchsorted(edges, data, side="right"), np.searchsorted(edges, selfplay, side="right")


def classify(
    data: Sequence[Hashable],
    selfplay: Sequence[Hashable],
    sample: Sample,
    *,
    encoded: Sequence[Hashable] | None = None,
    by_rendering: Booleans | None = None,
) -> Classifier:
    """Count a classifier of one trait on the first half, and measure it on the held-out half.

    Args:
        data: [n] the trait of the data's responses.
        selfplay: [n] of the self-play responses.
        sample: the rows.
        encoded: [n] of the self-play responses that were encoded as data; None: rendering's own share is not measured.
        by_rendering: [n] where a change counts for rendering; elsewhere it counts for non-canonical sampling.
    """
    numbers: dict[Hashable, int] = {}  # of the values
    ours, theirs, anew = (
        np.array([numbers.setdefault(value, len(numbers)) for value in values], np.intp)
        for values in (data, selfplay, selfplay if encoded is None else encoded)
    )
    distances = {
        "total_variation": total_variation(ours, theirs, len(numbers)),
        "total_variation_by_chance": total_variation_by_chance(ours, theirs, len(numbers)),
    }
    test, train = sample.held_out, ~sample.held_out
    if not test.any():
        return Classifier(**distances)
    odds = np.bincount(theirs[train], minlength=len(numbers)) - np.bincount(ours[train], minlength=len(numbers))
    taken_for_selfplay = (np.sign(odds) + 1) / 2
    right = (taken_for_selfplay[theirs] + 1 - taken_for_selfplay[ours])[test] / 2
    clusters = [prompt for prompt, held_out in zip(sample.prompts, test, strict=True) if held_out]
    figures: dict[str, float | None] = {
        **distances,
        "accuracy": float(right.mean()),
        "stderr": clustered_standard_error(right.tolist(), clusters),
    }
    if encoded is not None and by_rendering is not None:
        lost = (taken_for_selfplay[theirs] - taken_for_selfplay[anew])[test]
        rendering = lost * by_rendering[test]
        figures |= {
            "rendering": float(rendering.mean()) / 2,
            "non_canonical": float((lost - rendering).mean()) / 2,
            "p": sign_flip_p(rendering),
        }
    return Classifier.model_validate(figures)


def total_variation(ours: Ints, theirs: Ints, size: int) -> float:
    """Return half the L1 distance of two samples of values below `size`, [n] each."""
    difference = np.bincount(ours, minlength=size) - np.bincount(theirs, minlength=size)
    return float(np.abs(difference).sum()) / (2 * len(ours))


def total_variation_by_chance(ours: Ints, theirs: Ints, size: int) -> float:
    """Return the mean of `total_variation` over all swaps of the two values of a row.

    Of m rows in which exactly one side has a value, the difference of its counts is the sum of m random signs. The mean of its
    absolute value is e_m = m · C(m − 1, ⌊(m − 1)/2⌋) / 2^(m − 1): e_1 = 1, e_2k = e_2k−1, e_2k+1 = e_2k · (2k + 1)/2k.
    """
    differ = ours != theirs
    rows = np.bincount(ours[differ], minlength=size) + np.bincount(theirs[differ], minlength=size)
    largest = int(rows.max(initial=0))
    mean_absolute = np.ones(largest + 1)
    mean_absolute[0] = 0
    for m in range(2, largest + 1):
        mean_absolute[m] = mean_absolute[m - 1] * (m / (m - 1) if m % 2 else 1)
    return float(mean_absolute[rows].sum()) / (2 * len(ours))


def sign_flip_p(differences: Floats) -> float:
    """Return the two-sided p value of the sum of differences over all flips of their signs.

    Args:
        differences: [n], each 0, ±½ or ±1.
    """
    from scipy.stats import binom

    halves = np.abs(2 * differences).astype(int)
    single, double = int((halves == 1).sum()), int((halves == 2).sum())
    ones, twos = np.zeros(2 * single + 1), np.zeros(4 * double + 1)  # of sums −single … single, and −2 · double … 2 · double
    ones[::2] = binom.pmf(np.arange(single + 1), single, 0.5)
    twos[::4] = binom.pmf(np.arange(double + 1), double, 0.5)
    sums = np.convolve(ones, twos)
    largest = single + 2 * double
    outside = np.abs(np.arange(-largest, largest + 1)) >= abs(int((2 * differences).sum()))
    return min(1.0, float(sums[outside].sum()))
