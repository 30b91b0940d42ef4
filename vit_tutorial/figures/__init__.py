"""Figures: colours, plots and the picture of the model."""
