"""Python runs this at its start when the folder is on PYTHONPATH."""

import no_network

no_network.cut()
