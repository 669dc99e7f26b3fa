"""Publishing a run: report, plots, model card, research object (RO-Crate)."""
