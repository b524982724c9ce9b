"""The accuracy study: data sets, baselines (EViT, ToMe, scorers, lower resolution); studies of labels and export."""
