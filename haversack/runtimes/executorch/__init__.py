"""Programs (.pte) for ExecuTorch with XNNPACK: torch's exporter writes them, its Python runtime runs them."""
