"""A document's pages become what people and programs read: one module per format.

`formats.FORMATS` lists them; what they all get is a `finished.FinishedDocument`.
"""
