"""Reading: how each of torch's operations becomes TFLite's, with layouts and grids settled on the way."""
