"""The checks of `flask doctor`: problems of an installation, found without paid calls."""
