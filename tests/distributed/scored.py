"""Scores a model folder on the mini leaderboard with the other processes of torchrun, and prints the scores: scored.py FOLDER."""

import json
import sys
from pathlib import Path

from spac_repro import recipes, suites
from spac_repro.data import sources
from spac_repro.evaluation.leaderboard import scoring
from spac_repro.model import policy
from spac_repro.optim import distributed

recipe = recipes.load("tiny").recipe
distributed.init_process_group(distributed.world_size())
model, tokenizer = policy.load(Path(sys.argv[1]), recipe.policy)
world = sources.build_world(recipe.data.world)
scores = scoring.evaluate(model.eval(), tokenizer, suites.get("mini"), world=world, limit=12)
if distributed.is_main_process():
    print(json.dumps([[score.task, score.metric, score.value, score.stderr, score.n] for score in scores]))
