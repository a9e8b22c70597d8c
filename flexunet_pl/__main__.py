"""python -m flexunet_pl."""

import sys

from flexunet_pl.cli.main import main

sys.exit(main())
