"""`dsocr doctor`: facts about machine and environment -> what will be in force, what is wrong."""
