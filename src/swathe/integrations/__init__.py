"""Bridges to libraries that train by themselves: each module imports its own one, and Swathe imports none of them."""
