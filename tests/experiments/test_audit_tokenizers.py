"""The audit of a tokenizer alone, with one that writes a space before every word, as Mistral's does."""

import importlib.util
import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from spac_repro.data.preferences import Preference

SCRIPT = Path(__file__).resolve().parents[2] / "experiments" / "audit_tokenizers.py"
spec = importlib.util.spec_from_file_location("audit_tokenizers", SCRIPT)
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)

WORDS = ["the", "answer", "is", "so", "we", "have", "four", "five", "and", "then", "many", "more", "clips", "than", "that"]


@pytest.fixture(scope="module")
def rows() -> list[Preference]:
    generator = random.Random(0)

    def text() -> str:
        return " ".join(generator.choices(WORDS, k=6)).capitalize() + "."

    return [Preference(({"role": "user", "content": f"{text()} {i}?"},), text(), text()) for i in range(120)]


@pytest.fixture(scope="module")
def tokenizer(rows):
    """BPE over words with their space, trained on the rows."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    corpus = [text for row in rows for text in (row.chosen, row.rejected, script.FRAME.format(prompt=row.prompt[0]["content"]))]
    corpus += [word for text in corpus for word in text.split()] + [f"x{word}" for word in corpus]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    backend.train_from_iterator(corpus, trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.chat_template = script.TEMPLATE
    return fast


@pytest.mark.parametrize("frame", ["instruction", "chat"])
def test_what_is_encoded_apart_is_loud_and_what_is_encoded_behind_its_prompt_is_quiet(tokenizer, rows, frame):
    before, now = script.apart(tokenizer, rows, script.standard(frame)), script.behind(tokenizer, rows, script.standard(frame))
    assert len(before.warnings()) == 1
    assert before.rewritten == 1
    assert before.comparisons["chosen"].first_token.rendering > 0.2
    first = now.comparisons["chosen"].first_token
    assert (now.warnings(), now.rewritten, now.non_canonical, first.rendering, first.p) == ([], 0, 0, 0, 1)
