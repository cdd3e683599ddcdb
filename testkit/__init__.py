"""Shipped fakes, one suite per port, generated images, real peers. Nothing in production imports it."""
