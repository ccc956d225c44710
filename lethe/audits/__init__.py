"""The commands of audit.py: audits by many models, of models made elsewhere, of a run."""
