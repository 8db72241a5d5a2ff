"""How long, how large: figures read off files in their runtime, or estimated and labelled so."""
