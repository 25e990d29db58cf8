"""Reading held-out pages and saying how well.

reading.py served.py    pages -> answers, in this process or through a server
grammar.py              whether an answer has the form its task asks for
scoring.py              an answer and the truth -> figures
"""
