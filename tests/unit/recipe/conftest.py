import sys
from pathlib import Path

# small.py is shared by the files of this folder
sys.path.insert(0, str(Path(__file__).parent))
