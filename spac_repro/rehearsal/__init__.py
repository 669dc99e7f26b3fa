"""A rehearsal: every stage of a run on a few layers of the recipe's true widths, and what the whole run takes by it."""
