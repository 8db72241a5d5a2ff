"""Surgery: a network's layers replaced and thinned by edits that are plain data, and saved with them."""
