"""``python -m agi_scripts``: the FastAGI server on the settings' address, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import gc
import logging
import signal
import sys

from agi_scripts.database import open_reader
from agi_scripts.server import Server
from ari_app.errors import SettingsInvalid
from ari_app.settings import load


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = load()
        server = Server(
            settings.control_address, settings.agi_port, open_reader(settings), deadline_s=settings.agi_deadline_s
        )
    except (SettingsInvalid, OSError) as error:
        print(f"The AGI server cannot start: {error}", file=sys.stderr)
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    gc.collect()
    gc.freeze()  # else each full collection looks at all that is loaded, while a caller waits
    server.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
