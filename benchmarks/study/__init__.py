"""The accuracy study: data sets, reducers, baselines (scorers, lower resolution); studies of labels and export."""
