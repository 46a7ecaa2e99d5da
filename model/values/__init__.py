"""The frozen values of an architecture, by room; `model.config` is the door to all of them."""
