"""A comparison of trainings on one novel-object benchmark: models, rows, scores with intervals, a page."""
