"""Update: a model that is out in the field gives way to its next version; nothing here needs torch."""
