"""What samples are measured with: FID, PRDC, entropy, distances, in the features of a LeNet."""

PRDC_K = 5  # nearest neighbours of precision, recall, density and coverage
