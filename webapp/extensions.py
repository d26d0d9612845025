"""The Flask extensions, unbound; create_app() binds them."""

from flask_caching import Cache
from flask_cors import CORS
from flask_limiter import Limiter

cache = Cache()
cors = CORS()
# Weir sets the headers itself: the numbers come with the decision, without a second trip.
limiter = Limiter(key_func=lambda: "", headers_enabled=False)
