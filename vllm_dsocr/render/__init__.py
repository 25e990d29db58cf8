"""A document's pages become files that people and programs read: one module per format."""
