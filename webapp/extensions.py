"""The Flask extensions, unbound; create_app() binds them."""

from flask_caching import Cache
from flask_cors import CORS
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address

cache = Cache()
cors = CORS()
# Weir sets the headers itself: the decision includes their values, without a second round trip.
limiter = Limiter(key_func=get_remote_address, headers_enabled=False)
