"""python -m flexunet_pl."""

import sys

from flexunet_pl.cli import main

sys.exit(main())
