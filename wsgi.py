"""The application, for Gunicorn and the flask command."""

import gc
import sys

# What is imported stays, with 0.4 MB of garbage in it: looking for that once would take a tenth of
# the start.
gc.disable()

from webapp.application import create_app  # noqa: E402
from webapp.settings import SettingsError  # noqa: E402

try:
    app = create_app()
except SettingsError as error:
    sys.exit(str(error))
finally:
    gc.freeze()
    gc.enable()
