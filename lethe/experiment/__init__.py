"""One run: its config, its base models, what it measures, warns of and leaves."""
