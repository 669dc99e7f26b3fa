"""What a run is handed on as: report, plots, model card, research object."""
