"""The files of datasets: finding, preparing and reading them."""
