"""The application, for Gunicorn and the flask command."""

import sys

from webapp.application import create_app
from webapp.settings import SettingsError

try:
    app = create_app()
except SettingsError as error:
    sys.exit(str(error))
