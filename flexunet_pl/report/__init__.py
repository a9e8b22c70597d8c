"""Write the evaluation of a model as a page, JSON and CSV."""
