"""Files and folders that hold several planes, behind one seam: `base.py`."""
