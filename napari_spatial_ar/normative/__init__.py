"""What normal looks like: backbone, detectors, training, calibration, model file. No Qt."""
