"""What `reproduce.py` trains and measures, one folder on disk for each trained model."""
