"""The words of a report's tables and figures, each with its definition in one line.

docs/glossary.md holds these definitions and those of every other table, with the functions that compute the values. A report links
to nothing outside itself, so it carries the definitions that it needs. `tests/test_glossary.py` compares them with the document.
"""

from collections.abc import Collection

# The keys are the anchors of docs/glossary.md.
COLUMNS = {
    "row": "method, iteration, task and metric of an expected result; a primary row decides the verdict, others do not",
    "expected": "value of the row: a mean over seeds, or a published number",
    "fresh": "mean over the runs that are verified",
    "runs": "number of runs that are verified",
    "difference": "fresh − expected",
    "tolerance": "largest difference of the mean that agrees: t(K + k − 2, 1 − α/2) · s_p · √(1/k + 1/K), s_p pooled over all runs",
    "underpowered": "the row could not have found a deviation as small as its effect",
    "verdict": "of a row: agrees or disagrees. Of a run: verified, disagrees, or unverified where nothing could decide",
    "task": "what is measured: gold, heldout, a task of the suite, or average",
    "metric": "which number of the task",
    "items": "items that the score is a mean over",
    "iteration": "which iterate: 0 is the start policy, t is the policy after self-play iteration t",
    "plus-minus": "one run: the standard error. Several runs: the standard deviation over seeds. theory: half the 95 % t interval",
    "note": "what a reader must know: contamination (contaminated: 3 of 100 items), cut prompts, what the score is relative to",
}
SCORES = {
    "reward": "gold: mean gold reward of responses sampled to held-out prompts of the built-in world; 0 to 1",
    "exact": "gold: share of the sampled responses that are exactly right (reward 1)",
    "win_rate": "gold: share of responses with a higher reward than the start policy's to the same prompt; a tie is half a win",
    "length": "gold: mean response length, in tokens",
    "margin": "heldout: mean ρ(y⁺) − ρ(y⁻) on held-out preferences, in nats, with π_0 for the reference and without β",
    "accuracy": "heldout: share of the held-out preferences with ρ(y⁺) > ρ(y⁻); a tie is half",
    "critic_gap": "heldout: mean ρ(y′) − ½(ρ(y⁺) + ρ(y⁻)) with y′ ~ π_0, in nats; negative: the policy moves from y′ to the data",
    "divergence": "heldout: KL(π_0 ‖ π_t) on held-out prompts, estimated by the mean of −ρ(y′) with y′ ~ π_0, in nats",
    "acc": "share of questions whose right choice has the highest log-probability; with subjects, over all questions",
    "acc_norm": "acc with each choice's log-probability divided by its length in characters",
    "acc_macro": "acc of each subject, averaged over subjects",
    "mc2": "mean share of probability that the true answers get among all answers (TruthfulQA)",
    "exact_match": "share of generated answers that equal the right one; GSM8K: the number after ####",
    "exact_match_flexible": "GSM8K: exact_match with the last number of the answer",
    "mean": "average: plain mean over the tasks of the suite, each by its first metric. sweep collect: mean over seeds",
}
PAIRED = {
    "gained": "questions that B alone answers, of two models",
    "lost": "questions that A alone answers, of two models",
    "paired-interval": "interval of B − A on the same questions: Bonett and Price's for shares of two models, else Student's t",
    "paired-p": "p of no difference: McNemar's exact test for shares, sign flips for means, Student's t for groups of runs",
    "holm": "p corrected over the primary metric of each task and the average, by Holm's method",
    "paired-detectable": "true difference that is found with probability 0.8, at the level 0.05 over the number of corrected rows",
    "paired-noise": "the test; for groups of runs, the standard errors that seeds and questions have",
}
AUDIT = {
    "audit-cut": "share of responses that reached the limit, and have no stop token at their end",
    "audit-lengths": "quantiles of the length, in tokens with the stop token",
    "audit-first_tokens": "most frequent first tokens of a column's responses, as the tokenizer writes them",
    "audit-trait": "what a classifier looks at: the first token; the stop tokens at the end, or none; the length, in ten bins",
    "total_variation": "total variation of a trait's two distributions; in brackets what equal distributions give by chance",
    "audit-accuracy": "balanced accuracy of the classifier on held-out prompts; chance is 0.5",
    "rendering_share": "accuracy on self-play less that on the same responses decoded and encoded as data; p by permutation",
    "non_canonical": "the part of that difference where encoding changes tokens and not text: the policy sampled other tokens",
}
STEP_METRICS = {
    "step-loss": "the loss of the method",
    "step-accuracy": "share of examples with ρ(y⁺) > ρ(y⁻): TRL's rewards/accuracies",
    "step-margin": "β(ρ(y⁺) − ρ(y⁻)): TRL's rewards/margins",
    "step-critic_gap": "β(ρ(y′) − ½(ρ(y⁺) + ρ(y⁻))) with y′ ~ π_{t−1}; without rejected responses β(ρ(y′) − ρ(y⁺))",
}
SYMBOLS = {
    "rho": "log-ratio log π(y|x) − log π_ref(y|x), summed over the response's tokens, in nats",
    "chosen": "chosen response",
    "rejected": "rejected response",
    "selfplay": "self-play response: one sample of π_{t−1} to the same prompt",
    "pi": "iterate t: the policy after self-play iteration t",
    "pi_0": "start policy: iterate 0, before any preference is seen",
    "beta": "scale of ρ in the loss: 1/η for SPAC and SPPO, strength of the penalty on leaving the reference for other methods",
}
# What tables and figures show, where it is not the anchor.
NAMES = {
    "paired-interval": "95 % interval",
    "paired-p": "p",
    "holm": "p (Holm)",
    "paired-detectable": "detectable",
    "paired-noise": "noise",
    "underpowered": "without power",
    "plus-minus": "±",
    "audit-cut": "cut",
    "audit-lengths": "tokens",
    "audit-first_tokens": "first tokens",
    "audit-trait": "told apart by",
    "total_variation": "distance",
    "audit-accuracy": "accuracy (of the audit)",
    "rendering_share": "rendering's own share",
    "non_canonical": "non-canonical sampling's share",
    "step-loss": "loss",
    "step-accuracy": "accuracy",
    "step-margin": "margin",
    "step-critic_gap": "critic_gap",
    "rho": "ρ",
    "chosen": "y⁺",
    "rejected": "y⁻",
    "selfplay": "y′",
    "pi": "π_t",
    "pi_0": "π_0",
    "beta": "β",
}
DEFINITIONS = {**COLUMNS, **PAIRED, **AUDIT, **SCORES, **STEP_METRICS, **SYMBOLS}


def terms_shown(metrics: Collection[str]) -> list[dict[str, str]]:
    """Return the terms of a report, as anchor, name and definition.

    Args:
        metrics: The metrics that its score tables show. A metric of a user's own suite has no definition here.
    """
    anchors = [*COLUMNS, *PAIRED, *AUDIT, *(metric for metric in SCORES if metric in metrics), *STEP_METRICS, *SYMBOLS]
    return [{"anchor": anchor, "name": NAMES.get(anchor, anchor), "definition": DEFINITIONS[anchor]} for anchor in anchors]
