"""The report of a sweep: one page, its figures and tables, and the model card. The only room with matplotlib."""
