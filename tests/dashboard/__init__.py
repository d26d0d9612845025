"""Tests of the dashboard, as a browser without JavaScript sees it."""
