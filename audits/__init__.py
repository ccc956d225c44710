"""What audit.py does: a method on many models (KLoM, U-LiRA), models that were made elsewhere, a run
recomputed.
"""
