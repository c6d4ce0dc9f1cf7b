"""What samples are measured with: FID, PRDC, entropy, distances, in the features of a LeNet."""

# What figures and pages call them, by their columns in metrics_w{w}.csv.
NAMES = {
    "fid": "FID",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
}
PRDC_K = 5  # nearest neighbours of precision, recall, density and coverage
