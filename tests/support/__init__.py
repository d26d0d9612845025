"""The servers, clients and helpers of the tests."""
