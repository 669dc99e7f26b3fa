"""The audit of an iteration, data versus self-play: measured once, before training; its warnings are shown each time."""

from collections.abc import Sequence
from functools import partial

from spac_repro import methods
from spac_repro.data import audit, dataset, tokenizers
from spac_repro.data.audit import Codec
from spac_repro.optim import distributed
from spac_repro.run_context import RunContext
from spac_repro.runs import file_hashes
from spac_repro.runs.audit import Audit


def measure(context: RunContext, t: int) -> None:
    """Write the audit of iteration t to the run folder, unless it is there, and show its warnings.

    An iteration whose training data were removed is not measured again.
    """
    distributed.on_main_process(lambda: _measure(context, t))


def _measure(context: RunContext, t: int) -> None:
    iteration = context.folder.iteration(t)
    found = iteration.audit()
    if found is None and iteration.has_dataset:
        with context.timed(t, "audit"):
            found = _audit(context, t)
            file_hashes.write_json(context.folder, iteration.audit_file, found.as_json())
    for line in found.warnings() if found else ():
        context.progress.message(f"WARNING: iteration {t}: {line}")


def _audit(context: RunContext, t: int) -> Audit:
    data, renderer = dataset.read(context.folder.iteration(t).dataset_file), context.renderer
    codec = Codec(
        re_encode=lambda row, response: renderer.re_encode(context.inputs.preferences[row], response),
        row_text=partial(renderer.tokenizer.decode, clean_up_tokenization_spaces=False),
        token_text=lambda token: str(renderer.tokenizer.convert_ids_to_tokens(token)),
        stop_token_ids=renderer.stop_token_ids,
        special_token_ids=renderer.tokenizer.all_special_ids,
        unknown_token_id=tokenizers.unknown_token_id(renderer.tokenizer),
    )
    columns: dict[str, Sequence[list[int]]] = {name: data.responses[name] for name in methods.get(context.run.method).responses}
    return audit.measure(data.prompts, columns, columns.pop("selfplay", None), codec)
