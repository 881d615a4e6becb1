"""What stands around the experiment: files, data sets, processes and clusters, inference."""
