"""Pages with layout: titles, paragraphs, lists, tables, figures, formulas, and the answers to them.

    marks.py                      what an answer is made of, one mark per token, with its place
    text.py tables.py figures.py formulas.py    one kind of block each: drawn, with its content
    page.py                       blocks arranged on a page
    answers.py                    a page and a task -> the tokens the model should write

Places are known for every character, cell and box, so that every loss of the training applies.
"""
