"""Files and folders that hold several planes, behind one interface (`base.py`)."""
