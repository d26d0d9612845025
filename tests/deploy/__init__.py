"""Tests of deploy/: the chart and the plain manifests for Kubernetes."""
