"""One module for each export format; ``flexunet_pl.export.registry`` imports them all."""
