"""Which recipes to try, in which order. Knows no technique and no exporter: it is given them."""
