"""Detectors: pictures in; boxes, features, class names and scores out (`base.Detector`)."""
