"""The evaluation report: a model and a data folder in, a page that tells where the model is right and wrong out."""
