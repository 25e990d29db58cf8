"""Documents as PDF: pages with their layout drawn, pages whose text can be searched."""
