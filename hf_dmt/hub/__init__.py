"""Publishing: model cards, staged pushes, pseudo labels as a data set."""
