"""What array_param_file.py does: a grid's language, the lines it comes to, and a queue of workers that runs
them, each job once.
"""
