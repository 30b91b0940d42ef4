"""The laboratory: what a long, large or resumed run needs, beside the lesson `train.py`."""
